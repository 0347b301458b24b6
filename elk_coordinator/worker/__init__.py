"""What every worker does: beat, claim, run the user's processor, report."""
