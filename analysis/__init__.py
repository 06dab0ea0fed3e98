"""Reads the runs of a sweep and answers its questions: frames from MLflow, half-lives with uncertainty, a report.

Needs neither torch nor ray; of halflife it imports only the schema of what was logged.
"""
