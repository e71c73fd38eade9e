"""What an operator runs, and what keeps the pages an operator reads true. Nothing here is deployed."""
