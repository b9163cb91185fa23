"""The configuration of nsd, an authoritative DNS server, for benchmarks and tests."""

from pathlib import Path

ZONE = "example.org"

_CONFIGURATION = """\
server:
  ip-address: {host}@{port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd"
  zonelistfile: "{folder}/zonelist"
  cookie-secret-file: "{folder}/cookies"
  ipv4-edns-size: 4096
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: {zone}
  zonefile: zone
"""
_HEAD = """\
$ORIGIN {zone}.
$TTL 60
@ IN SOA ns hostmaster 1 3600 600 86400 60
  IN NS ns
ns IN A 192.0.2.1
"""


def arguments(folder: Path, host: str, port: int, records: str) -> list[str]:
    """Write a configuration into `folder`, and give what nsd is to be started with, but its name.

    It answers over UDP and TCP, without a limit on rates, with `records` of `ZONE`.
    """
    text = _CONFIGURATION.format(host=host, port=port, folder=folder, zone=ZONE)
    (folder / "nsd.conf").write_text(text)
    (folder / "zone").write_text(f"{_HEAD.format(zone=ZONE)}{records}\n")
    return ["-d", "-c", str(folder / "nsd.conf")]
