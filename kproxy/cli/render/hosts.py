"""`kproxy get hosts`: lines of hosts(5), to append to /etc/hosts or to give to a container."""

from collections.abc import Iterator, Sequence

from kproxy.cli.parse.asked_resources import View


def with_short_name(view: View, namespace: str) -> View:
    """A view of `namespace` with the name that a pod there may use, `web` alone; others as is."""
    if view["namespace"] != namespace:
        return view
    names = view["hostnames"]
    return {**view, "hostnames": [*names, names[-1].removesuffix(f".{namespace}")]}


def fragment(views: Sequence[View], namespace: str, *, has_comments: bool) -> str:
    """A part of a hosts file, for the Services of a namespace ("" for all); "" without any.

    Comments say where it comes from, and which ports clients must use in place of a Service's own:
    a hosts file has addresses only.
    """
    if not views:
        return ""
    lines = [*_comments(views, namespace)] if has_comments else []
    lines += ["\t".join((view["address"], " ".join(view["hostnames"]))) for view in views]
    return "".join(f"{line}\n" for line in lines)


def _comments(views: Sequence[View], namespace: str) -> Iterator[str]:
    whose = f"the Services of namespace {namespace}" if namespace else "the Services"
    yield f"# Made by `kproxy get hosts`: {whose}, at the addresses where kproxy serves them."
    flag = f"-n {namespace}" if namespace else "-A"
    yield f"# kproxy get hosts {flag} | sudo tee -a /etc/hosts; make it anew when Services change."
    for view in views:
        for port in view["ports"]:
            if port["port"] != port["bound_port"]:
                yield (
                    f"# {view['hostnames'][-1]}: port {port['port']}/{port['protocol']} "
                    f"is at {port['bound_port']}"
                )
