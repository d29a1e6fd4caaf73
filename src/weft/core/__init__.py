"""Values that every floor shares: batches, features, losses, parameter paths and tables. No policy lives here."""
