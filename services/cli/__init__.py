"""People's hands: the `claimledger` command.

`world` and `generator` make an invented country's insured, providers and claims from a seed; `bootstrap` makes the
development network from it; `processes` starts and stops what runs; the other modules are the commands.
"""
