"""Campaigns: every study that was tried for one goal, with an error rate of 5 % for all of them together."""
