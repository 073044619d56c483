"""Training of the runs of a plan on a Ray cluster.

The driver holds no state: the plan and the run folders are enough to resume.
"""
