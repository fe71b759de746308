"""What every cytomask function needs, without any machine learning."""
