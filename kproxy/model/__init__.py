"""What the cluster says, as frozen data: names, objects, Services, endpoints, forwarding rules.

Pure: nothing here does I/O, reads a clock or knows an event loop. Raw YAML and JSON become
typed objects in `objects` and nowhere else.
"""
