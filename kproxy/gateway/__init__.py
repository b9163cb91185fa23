"""The Gateway API: listeners of Gateways served as ports of Services are, by routes with weights.

`planner` makes of Gateways and routes what the proxier serves; which routes attach (`attaching`),
which backends may be used (`resolving`) and who gets which share (`shares`) are pure decisions.
"""
