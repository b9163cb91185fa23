"""Tables of Secrets, ConfigMaps and ServiceAccounts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kproxy.simulator.api.reading.columns import AGE, NAME, Column, Layout, age_of
from kproxy.simulator.store.storage import Object


def _secret(item: Object, now: datetime) -> Sequence[Any]:
    count = len(item.get("data") or ())
    return item["metadata"]["name"], item.get("type", ""), count, age_of(item, now)


def _config_map(item: Object, now: datetime) -> Sequence[Any]:
    count = len(item.get("data") or ()) + len(item.get("binaryData") or ())
    return item["metadata"]["name"], count, age_of(item, now)


def _service_account(item: Object, now: datetime) -> Sequence[Any]:
    return item["metadata"]["name"], len(item.get("secrets") or ()), age_of(item, now)


LAYOUTS: Mapping[str, Layout] = {
    "Secret": ((NAME, Column("Type"), Column("Data"), AGE), _secret),
    "ConfigMap": ((NAME, Column("Data"), AGE), _config_map),
    "ServiceAccount": ((NAME, Column("Secrets"), AGE), _service_account),
}
