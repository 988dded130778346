"""Classifiers: the estimators, what they are worth, and the report that says so."""
