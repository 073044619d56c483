"""The files of a user's own program: which ones decide the results, their hash, and trees of git."""
