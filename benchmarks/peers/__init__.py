"""What else one could build or take: the same draws and the same reports, side by side in one run."""
