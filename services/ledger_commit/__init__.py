"""One replica of the ledger: consensus, contract, and the shell that feeds and publishes."""
