"""Files and Hub rows become claims, claims become batches."""
