"""What Holdfast costs and how fast it is, measured side by side with its peers on one machine, in one run."""
