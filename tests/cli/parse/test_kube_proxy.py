"""kube-proxy's own flags on the command line of `kproxy run`."""

import pytest

from kproxy import config, errors, settings
from kproxy.cli.parse import kube_proxy, options

TAKES_VALUE = options.takes_value(settings.table(config.Config))


def translate(*arguments: str) -> kube_proxy.Translated:
    return kube_proxy.translate(arguments, TAKES_VALUE)


def test_kproxys_own_command_line_is_left_as_it_is() -> None:
    own = [
        "-f",
        "--cleanup",
        "--namespace=a",
        "-n",
        "--v=3",
        "--verbose",
        "--nope",
        "x",
        "--",
        "-v",
    ]

    assert translate(*own) == kube_proxy.Translated(own, [])


@pytest.mark.parametrize(
    "flags",
    [
        ["--bind-address=0.0.0.0"],
        ["--bind-address", "0.0.0.0"],
        ["--conntrack-max-per-core=32768"],
        ["--conntrack-tcp-timeout-established", "24h0m0s"],
        ["--conntrack-tcp-be-liberal"],
        ["--iptables-min-sync-period=1s"],
        ["--iptables-localhost-nodeports"],
        ["--ipvs-scheduler", "rr"],
        ["--ipvs-strict-arp"],
        ["--nftables-sync-period", "30s"],
        ["--masquerade-all"],
        ["--masquerade-all=false"],
        ["--feature-gates", "A=true,B=false"],
        ["--kube-api-qps=5"],
        ["--logtostderr=true"],
        ["--logtostderr"],
        ["--skip_headers"],
        ["--log_dir", "/var/log"],
        ["--proxy-port-range", "0-0"],
        ["--cleanup-ipvs"],
        ["--profiling"],
    ],
    ids=" ".join,
)
def test_a_flag_that_means_nothing_here_is_passed_over_with_one_sentence(flags: list[str]) -> None:
    done = translate("-f", "web.yaml", *flags, *flags, "--verbose")

    assert done.arguments == ["-f", "web.yaml", "--verbose"]
    name = flags[0].partition("=")[0].replace("_", "-")
    assert [note.partition(": ")[0] for note in done.notes] == [f"{name} is ignored"]
    assert done.ending is None


@pytest.mark.parametrize(
    ("flags", "ours"),
    [
        (["--v=4"], ["--verbose"]),
        (["--v", "10"], ["--verbose"]),
        (["-v=5"], ["--verbose"]),
        (["-v", "4"], ["--verbose"]),
        (["-v9"], ["--verbose"]),
        (["--v=" + "9" * 5000], ["--verbose"]),
        (["--v=2"], []),
        (["-v", "0"], []),
        (["-v"], ["--verbose"]),
        (["-v", "--strategy", "random"], ["--verbose", "--strategy", "random"]),
        (["--proxy-mode=userspace"], []),
        (["--proxy-mode", ""], []),
        (["--logging-format=json"], ["--log-format", "json"]),
        (["--healthz-port", "10256"], ["--healthz-bind-address", "0.0.0.0:10256"]),
        (["--healthz-port=0"], ["--healthz-bind-address", ""]),
        (["--metrics-port=1"], ["--metrics-bind-address", "127.0.0.1:1"]),
        (["--allow-loopback-endpoints=true"], ["--allow-loopback-endpoints"]),
        (["--verbose=False"], ["--no-verbose"]),
        (["--cleanup=false"], ["--no-cleanup"]),
        (["--cleanup=true"], ["--cleanup"]),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_flag_that_means_something_is_translated(flags: list[str], ours: list[str]) -> None:
    assert translate(*flags) == kube_proxy.Translated(ours, [])


@pytest.mark.parametrize("flag", ["--init-only", "--version=raw"])
def test_what_kube_proxy_does_before_it_serves_is_done_at_once(flag: str) -> None:
    assert translate(flag, "--feature-gates", "A=true").ending is not None


@pytest.mark.parametrize(
    "flags",
    [
        *(["--master=https://x"], ["--master", "x"], ["--config", "c.yaml"]),
        *(["--write-config-to=c"], ["--proxy-mode=ipvs"], ["--proxy-mode", "nftables"]),
        *(["--v=x"], ["--v"], ["--v="], ["--verbose=maybe"], ["-v=-1"]),
    ],
    ids=" ".join,
)
def test_a_flag_that_asks_for_what_cannot_be_is_refused(flags: list[str]) -> None:
    with pytest.raises(errors.ConfigError, match=flags[0].partition("=")[0].strip("-")):
        translate(*flags)
