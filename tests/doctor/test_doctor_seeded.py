"""Misconfigurations, one at a time in a whole installation: each is found, by its id, with what was seen and a remedy, and nothing else is blamed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from doctor.findings import KINDS
from local.products.faults import Faults
from local.sentinel.answers import DEFAULT_DCR
from local.sentinel.process import LoopbackCredential

Seed = Callable[[Any], None]


def setting(**values: str) -> Seed:
    """Settings with other values; an empty one is taken out."""

    def seed(ward: Any) -> None:
        ward.environment.update(values)
        for name in [name for name, value in ward.environment.items() if not value]:
            del ward.environment[name]

    return seed


def misspelled(ward: Any) -> None:
    ward.environment["DELTA_SCHEDUEL"] = ward.environment.pop("DELTA_SCHEDULE")


def identity(**fields: Any) -> Seed:
    return lambda ward: ward.emulator.control("identity", fields)


def drift(**fields: Any) -> Seed:
    return lambda ward: ward.emulator.control("drift", fields)


def faults(**fields: Any) -> Seed:
    return lambda ward: ward.simulator.set_faults(Faults(**fields))


def emulator_faults(**fields: Any) -> Seed:
    return lambda ward: ward.emulator.control("faults", fields)


def clock_off(ward: Any) -> None:
    ward.changes["now"] = lambda: time.time() - 3000


class Expired:
    """A credential with a client secret whose time is over, as Entra ID words it."""

    def get_token(self, *_: str, **__: Any) -> Any:
        raise ClientAuthenticationError("AADSTS7000222: The provided client secret keys for app 'x' are expired.")


def expired_secret(ward: Any) -> None:
    ward.changes["credential"] = lambda _: Expired()


def read_only_storage(ward: Any) -> None:
    """A signature that allows to read and list only."""
    parts = dict(part.split("=", 1) for part in ward.environment["STAGING_CONNECTION_STRING"].split(";") if part)
    signature = generate_container_sas(
        parts["AccountName"],
        ward.environment["STAGING_CONTAINER"],
        parts["AccountKey"],
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    endpoint = f"BlobEndpoint={parts['BlobEndpoint']};SharedAccessSignature={signature}"
    ward.environment["STAGING_CONNECTION_STRING"] = endpoint


def other_stream(ward: Any) -> None:
    named = {"name": "soc", "endpoint": ward.emulator.url, "dcr_immutable_id": DEFAULT_DCR}
    ward.environment["DESTINATIONS"] = json.dumps([{**named, "streams": {"CAASM_Assets_CL": "Custom-Assets"}}])


def below_the_api(ward: Any) -> None:
    ward.environment["DEVICE42_URL"] += "/below"


def no_tls(ward: Any) -> None:
    ward.environment["DEVICE42_URL"] = ward.environment["DEVICE42_URL"].replace("http:", "https:")


def endpoint_without_tls(ward: Any) -> None:
    ward.environment["INGESTION_ENDPOINT"] = ward.emulator.url.replace("http:", "https:")


def elsewhere(ward: Any) -> None:
    text = ward.environment["STAGING_CONNECTION_STRING"]
    ward.environment["STAGING_CONNECTION_STRING"] = text.split("BlobEndpoint=")[0] + f"BlobEndpoint={NOWHERE}/dev;"


def hub_name(ward: Any) -> None:
    ward.environment["AzureFunctionsJobHost__extensions__durableTask__hubName"] = "my-hub"


NOWHERE = "http://127.0.0.1:1"
NO_HOST = "https://no-such-host.invalid"

SEEDED: dict[str, tuple[Seed, dict[str, str]]] = {
    "a number out of bounds": (setting(LANES="many"), {"settings.wrong": "LANES must be a number"}),
    "http instead of https": (setting(WORKSPACE_RESOURCE_ID="", DCR_RESOURCE_ID="", INGESTION_ENDPOINT="http://dce.invalid"), {"settings.wrong": "must begin with https://", "dcr.reach": "does not resolve"}),
    "a misspelled setting": (misspelled, {"settings.unknown": "DELTA_SCHEDULE is read", "settings.schedule": "not set"}),
    "a bad schedule": (setting(FULL_SCHEDULE="0 2 * * 6"), {"settings.schedule": "six fields"}),
    "a secret that is not resolved": (setting(DEVICE42_PASSWORD="@Microsoft.KeyVault(VaultName=v;SecretName=s)"), {"settings.secret": "did not resolve"}),
    "half a product": (setting(DEVICE42_PASSWORD=""), {"settings.product": "DEVICE42_PASSWORD missing"}),
    "a proxy": (setting(HTTPS_PROXY="http://user:canary-proxy@proxy.invalid:8080"), {"transport.proxy": "go through a proxy"}),
    "a certificate file that is not there": (setting(REQUESTS_CA_BUNDLE="/nowhere/ca.pem"), {"transport.certificates": "not there"}),
    "an invalid hub name": (hub_name, {"taskhub.name": "'my-hub'"}),
    "a scheduler that host.json does not use": (setting(DURABLE_TASK_SCHEDULER_CONNECTION_STRING="Endpoint=https://x"), {"taskhub.provider": "nothing uses it"}),
    "a kernel that is not there": (setting(NATIVE_KERNEL="/nowhere/kernel.so"), {"kernel.use": "neither off nor a library: '/nowhere/kernel.so'"}),
    "a host without storage": (setting(WEBSITE_SITE_NAME="func"), {"taskhub.storage": "queueServiceUri"}),
    "another cloud's audience": (setting(INGESTION_AUDIENCE="https://graph.example.com"), {"dcr.token": "401"}),
    "a token for something else": (identity(audience="https://vault.azure.net"), {"identity.audience": "'https://vault.azure.net'", "dcr.token": "401"}),
    "another tenant": (setting(AZURE_TENANT_ID="22222222-2222-2222-2222-222222222222"), {"identity.tenant": "of tenant 11111111"}),
    "a tenant that there is not": (identity(refusal="AADSTS90002: Tenant 'x' not found."), {"identity.tenant": "no token: AADSTS90002"}),
    "an expired secret": (expired_secret, {"identity.secret": "are expired"}),
    "an expired token": (identity(lifetime_s=-60), {"identity.expiry": "has expired", "dcr.token": "401"}),
    "no role on the rule": (identity(oid="no-access"), {"dcr.role": "does not have access"}),
    "a wrong immutable id": (setting(DCR_IMMUTABLE_ID="dcr-ffffffffffffffffffffffffffffffff"), {"dcr.rule": "404", "contract.rule": DEFAULT_DCR}),
    "a wrong stream": (other_stream, {"dcr.stream": "Custom-Assets", "contract.stream": "does not declare"}),
    "a throttled rule": (emulator_faults(seed=1, rate=1.0, kinds=["429"]), {"dcr.limited": "429"}),
    "an ingestion service in trouble": (emulator_faults(seed=1, rate=1.0, kinds=["503"]), {"dcr.trouble": "503"}),
    "a wrong endpoint": (setting(INGESTION_ENDPOINT=NO_HOST), {"dcr.reach": "does not resolve", "contract.endpoint": "no-such-host"}),
    "an endpoint that speaks no TLS": (endpoint_without_tls, {"dcr.tls": "does not speak TLS", "contract.endpoint": "https://127.0.0.1"}),
    "a column that the rule lacks": (drift(without={"Custom-CAASM_Assets": ["AssetId"]}), {"contract.column": "without AssetId"}),
    "a column that the table lacks": (drift(without={"CAASM_Findings_CL": ["CvssScore"]}), {"contract.table_column": "without CvssScore"}),
    "a column of another type": (drift(retyped={"CAASM_Findings_CL": {"CvssScore": "string"}}), {"contract.table_column": "CvssScore is string, not real"}),
    "a table that is not there": (drift(absent=["CAASM_Runs_CL"]), {"contract.table": "does not have it"}),
    "a stream that is not there": (drift(absent=["Custom-CAASM_Runs"]), {"contract.stream": "does not declare"}),
    "a stream that flows elsewhere": (drift(redirected={"Custom-CAASM_Runs": "Other_CL"}), {"contract.stream": "'Custom-Other_CL'"}),
    "resources that may not be read": (drift(denied=True), {"contract.access": "403"}),
    "a rule that is another's": (drift(immutable_id="dcr-0"), {"contract.rule": "'dcr-0'"}),
    "read-only storage": (read_only_storage, {"storage.role": "write: 403"}),
    "storage elsewhere": (elsewhere, {"storage.reach": "refused"}),
    "storage by a token over http": (setting(STAGING_CONNECTION_STRING="", STAGING_ACCOUNT_URL=f"{NOWHERE}/dev"), {"storage.reach": "HTTPS"}),
    "a bad product key": (setting(TENABLE_SECRET_KEY="canary-another-key"), {"product.key": "does not accept the credentials"}),
    "a product forbidden for one endpoint": (faults(forbidden=["/v1/issues"]), {"product.forbidden": "403"}),
    "a product elsewhere": (setting(TENABLE_URL=NOWHERE), {"product.reach": "refused"}),
    "a product without a name": (setting(DEVICE42_URL=NO_HOST), {"product.reach": "does not resolve"}),
    "a URL below the API": (below_the_api, {"product.endpoint": "404"}),
    "a product that speaks no TLS": (no_tls, {"product.tls": "does not speak TLS"}),
    "a page of something else": (faults(seed=1, rate=1.0, kinds=["html-200"]), {"product.page": "html"}),
    "a product that throttles": (faults(seed=1, rate=1.0, kinds=["429"], retry_after_s=30), {"product.limited": "Retry-After: 30"}),
    "a product in trouble": (faults(seed=1, rate=1.0, kinds=["503"]), {"product.trouble": "503"}),
    "a product's clock off": (faults(clock_off_s=-7200), {"product.clock": "behind ours"}),
    "our clock off": (clock_off, {"clock.ours": "behind", "product.clock": "ahead of ours"}),
}  # fmt: skip
"""What is seeded, and the ids of what has to be found with a part of what was seen; no other id may be among the findings that are not ok."""


@pytest.mark.parametrize("case", SEEDED)
def test_a_seeded_misconfiguration_is_found(ward: Any, case: str) -> None:
    """By its id, with its remedy, and nothing else is blamed."""
    seed, expected = SEEDED[case]
    seed(ward)
    report = ward.examine()
    troubles = [finding for finding in report.findings if finding.severity != "ok"]
    assert {finding.id for finding in troubles} == set(expected), troubles
    assert len({(finding.id, finding.subject) for finding in troubles}) == len(troubles), "told more than once"
    for kind, words in expected.items():
        assert any(words in f"{finding.subject} {finding.seen}" for finding in troubles if finding.id == kind), troubles
    assert all(finding.remedy == KINDS[finding.id][0] and finding.link for finding in troubles)
    assert "canary" not in str(report.to_json())


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AuthorizationFailure", "storage.network"),
        (403, "AuthorizationPermissionMismatch", "storage.role"),
        (403, "KeyBasedAuthenticationNotPermitted", "storage.role"),
        (400, "InvalidHeaderValue", "storage.semantics"),
        (503, "ServerBusy", "storage.trouble"),
        (404, "ResourceNotFound", "storage.reach"),
    ],
)
def test_what_storage_refuses_with(ward: Any, listen: Any, reply: Any, status: int, code: str, kind: str) -> None:
    """Closed by its firewall is told from a missing role, though both are 403: the codes say it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    account = listen(lambda _: reply(text, status, {"x-ms-error-code": code, "Content-Type": "application/xml"}))
    key = "AccountKey=" + "QQ=="
    ward.environment["STAGING_CONNECTION_STRING"] = (
        f"DefaultEndpointsProtocol=http;AccountName=dev;{key};BlobEndpoint={account.url}/dev;"
    )
    (found,) = ward.troubles("device42")
    assert (found.id, found.seen) == (kind, f"open: {status} {code}")


def test_a_proxy_that_refuses_is_told(ward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to Azure go through it; products are reached without it."""
    monkeypatch.setenv("http_proxy", NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    ward.credential = lambda _: LoopbackCredential()  # a real one would try again, for some seconds
    found = {finding.id: finding.seen for finding in ward.troubles("device42")}
    assert found["dcr.reach"] == "the proxy does not let us through"
    assert found["storage.reach"].endswith("the proxy does not let us through")
    assert "product.reach" not in found


def test_an_endpoint_that_leads_elsewhere_is_told(ward: Any, listen: Any, reply: Any) -> None:
    """Nothing is sent there."""
    elsewhere = listen(lambda _: reply(status=204))
    endpoint = listen(lambda _: reply(status=308, headers={"Location": elsewhere.url}))
    ward.environment["INGESTION_ENDPOINT"] = endpoint.url
    found = {finding.id: finding.seen for finding in ward.troubles("device42")}
    assert found["dcr.reach"] == "308: it leads elsewhere, and is not followed"
    assert elsewhere.asked == []


def test_our_clock_is_compared_with_both_services(ward: Any) -> None:
    """With one of them off, it would not be ours."""
    clock_off(ward)
    subjects = {finding.subject for finding in ward.troubles("device42") if finding.id == "clock.ours"}
    assert subjects == {"token for sentinel", "sentinel", "blob storage"}


def test_a_secret_that_a_product_sends_back_is_not_shown(ward: Any, listen: Any, reply: Any) -> None:
    """What came instead of a page is quoted, and may be anything."""
    secret = ward.environment["CYCOGNITO_API_KEY"]
    product = listen(lambda asked: reply(f"you sent {asked.headers['Authorization']}".encode()))
    ward.environment["CYCOGNITO_URL"] = product.url
    found = [finding for finding in ward.troubles("cycognito") if finding.id == "product.page"]
    assert len(found) == 4
    assert all("you sent ***" in finding.seen and secret not in finding.seen for finding in found)


def test_a_page_is_asked_for_with_one_record(ward: Any, listen: Any, reply: Any) -> None:
    """An inventory of millions is not read to see whether it can be."""
    product = listen(lambda _: reply(b'{"total_count": 1, "Devices": [{"id": 1}]}'))
    ward.environment["DEVICE42_URL"] = product.url
    assert ward.troubles("device42") == []
    assert [asked.query["limit"] for asked in product.asked] == ["1"]


def test_storage_that_replaces_what_it_should_not_is_told(ward: Any, listen: Any, reply: Any) -> None:
    """The app relies on it: of two copies of an activity the first to finish wins."""
    listing = b"<?xml version='1.0'?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"
    kind = {"Content-Type": "application/xml"}

    def answer(asked: Any) -> Any:
        return reply(b"", 201, {"ETag": '"1"'}) if asked.method == "PUT" else reply(listing, 200, kind)

    key = "AccountKey=" + "QQ=="
    ward.environment["STAGING_CONNECTION_STRING"] = (
        f"DefaultEndpointsProtocol=http;AccountName=dev;{key};BlobEndpoint={listen(answer).url}/dev;"
    )
    (found,) = ward.troubles("device42")
    assert (found.id, found.seen) == ("storage.semantics", "write once: a blob that was there was replaced")


def test_a_reference_is_not_sent_as_a_key(ward: Any) -> None:
    """It names the vault, and the product would count a failed login."""
    ward.environment["DEVICE42_PASSWORD"] = "@Microsoft.KeyVault(VaultName=v;SecretName=s)"
    ward.troubles("device42")
    assert ward.simulator.stats.requests == 0


def test_a_wrong_key_is_tried_once(ward: Any) -> None:
    """A second try could lock the account."""
    ward.environment["DEVICE42_PASSWORD"] = "canary-another-password"
    ward.troubles("device42")
    assert ward.simulator.stats.requests == 1


def test_an_export_job_of_another_s_is_not_cancelled(ward: Any, listen: Any, reply: Any) -> None:
    """A product that names a running job by its refusal lets us in; the job is somebody else's."""
    product = listen(lambda _: reply(b'{"active_job_id": "11", "failure_reason": "duplicate"}', 409))
    ward.environment["TENABLE_URL"] = product.url
    assert [finding.id for finding in ward.troubles("tenable")] == []
    assert [asked.path for asked in product.asked] == ["/assets/export", "/vulns/export"]
