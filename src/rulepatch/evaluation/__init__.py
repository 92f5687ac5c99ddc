"""What an edit did: predictions before and after, in numbers and in a report with pictures."""
