"""What the runs say: frames from MLflow, half-lives with their uncertainty, figures, a report.

Needs neither torch nor ray; of halflife it imports only the schema of what was logged.
"""
