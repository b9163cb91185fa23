"""`kproxy demo shop`: a whole application behind two nodes, which stays available while things die.

Two micro-services, UserMgr and OrderMgr, behind Services and one Ingress with TLS; OrderMgr calls
UserMgr by name. Beside it the other architecture: a gateway and a registry of heartbeats.
"""
