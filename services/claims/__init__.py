"""The domain's words: claims, transactions, results, money and their fixed encoding. Standard library only."""
