"""The benchmark: Holdfast's speed and cost, measured against its peers on the same machine in the same run."""
