"""Names of elsewhere: which servers are asked, how, and what they say."""
