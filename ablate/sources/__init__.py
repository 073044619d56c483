"""The files of a user's program: which ones decide the results, their hash, and git trees."""
