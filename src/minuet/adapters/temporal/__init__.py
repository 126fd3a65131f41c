"""Sagas on Temporal: each is one workflow around the pure coordinator, and each command one activity.

Nothing is imported here: Temporal's sandbox loads this package anew for each workflow.
"""
