"""The HTTPS resource API, in Kubernetes' shape: get, list, watch, create, replace, delete.

    [/clusters/NAME]/apis/federation.isthmus.dev/v1alpha1[/namespaces/NS]/PLURAL[/NAME]

Without `/clusters/NAME` the path means the federation: a list of a cluster's kind then spans all
clusters, and a write needs `metadata.cluster` or goes to the controller's own cluster.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import structlog
from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.catalog import REQUEST_ID_CHARS_MAX
from discovery.core.commands import Delete, Put
from discovery.core.kinds import GROUP, KINDS, VERSION, Kind, decode_spec
from discovery.core.model import FEDERATION_SCOPE, Resource, ResourceKey, unpack_resource
from discovery.core.quotas import quota_of
from discovery.core.rates import Bucket
from discovery.core.specs import ControllerSpec
from discovery.core.tables import Tables
from federation.api.admission import agent_key
from federation.api.caller import caller_identity, require_operator
from federation.api.directory import resource
from federation.api.manifest import (
    API_VERSION,
    decode_manifest,
    kind_of_plural,
    parse_revision,
    to_object,
    to_put,
)
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.api.watch import WATCHES_MAX, WatchHub
from federation.kernel.errors import (
    HTTP_STATUS,
    AlreadyExistsError,
    BadIdentityError,
    CompactedError,
    InvalidInputError,
    IsthmusError,
    LimitExceededError,
    NotAllowedError,
)
from federation.kernel.limits import RESOURCE_BYTES_MAX

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
    504: "Timeout",
}

# Of what is written, behind the id of a request.
_DIGEST_CHARS = 32

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Who watches is judged again with the first event so long after the last time.
WATCHER_JUDGED_S = 60.0

_log = structlog.get_logger("api")


def json_response(value: object, *, status: int = 200) -> web.Response:
    """Encode with msgspec, which knows our Structs."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


async def read_body(request: web.Request, limit_bytes: int) -> bytes:
    """Return the body; raises InvalidInputError once it has more than `limit_bytes`, without reading on."""
    body = b""
    while len(body) <= limit_bytes and not request.content.at_eof():
        body += await request.content.read(limit_bytes + 1 - len(body))
    if len(body) > limit_bytes:
        raise InvalidInputError(f"{request.path}: the body has more than {limit_bytes} bytes")
    return body


def failure(error: IsthmusError) -> web.Response:
    """Return the error as Kubernetes' Status object."""
    code = HTTP_STATUS[error.code]
    return status_response(
        code, error.message, reason="AlreadyExists" if isinstance(error, AlreadyExistsError) else ""
    )


def status_response(code: int, message: str, *, reason: str = "") -> web.Response:
    """Return a failure as Kubernetes' Status object."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason or _REASONS.get(code, "InternalError"),
        "code": code,
    }
    return json_response(body, status=code)


@web.middleware
async def errors_to_status(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn our errors, and only ours, into answers; the log keeps what is our own fault."""
    try:
        return await handler(request)
    except IsthmusError as error:
        if HTTP_STATUS[error.code] >= 500:
            _log.warning("request_failed", path=request.path, error=error.message)
        return failure(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return status_response(error.status, f"{request.method} {request.path}: {error.reason.lower()}")


def mirror_enrollment(key: ResourceKey, tables: Tables) -> ResourceKey | None:
    """Return the Agent record of the mirror whose Controller this is: it goes with it. None for anything else."""
    row = tables.resource(key) if key.kind == "Controller" else None
    spec = None if row is None else decode_spec("Controller", row.spec, where=str(key))
    if not isinstance(spec, ControllerSpec) or spec.role != "mirror":
        return None
    enrollment = agent_key(spec.cluster, "controller", key.name.removeprefix(f"{spec.cluster}-"))
    return None if tables.resource(enrollment) is None else enrollment


def _verbs(kind: Kind) -> list[str]:
    write = ("create", "update") if kind.writable else ()
    return ["get", "list", "watch", *write, *(("delete",) if kind.deletable else ())]


def _request_id(request: web.Request, put: Put) -> str:
    """Return under which id a write is proposed: the client's, for this very write; another one is no repetition."""
    given = request.query.get("requestId", "")
    if not given:
        return ""
    digest = hashlib.sha256(msgspec.msgpack.encode(put)).hexdigest()[:_DIGEST_CHARS]
    if len(given) > (most := REQUEST_ID_CHARS_MAX - len("/") - len(digest)):
        raise InvalidInputError(f"requestId has {len(given)} characters, at most {most} are allowed")
    return f"{given}/{digest}"


class ResourceApi:
    """Serves the catalog's resources to operators of one cluster."""

    def __init__(
        self,
        *,
        cluster: str,
        catalog: CatalogReader,
        proposer: Proposer,
        watches: WatchHub,
        verifier: Verifier,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._proposer = proposer
        self._watches = watches
        self._verifier = verifier
        self._watching = 0
        self._writes: Bucket | None = None

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        base = f"/apis/{GROUP}/{VERSION}"
        routes: list[web.RouteDef] = [web.get("/apis", self._groups)]
        for prefix in ("", "/clusters/{cluster}"):
            routes.append(web.get(f"{prefix}{base}", self._kinds))
            for inside in ("", "/namespaces/{namespace}"):
                collection = f"{prefix}{base}{inside}/{{plural}}"
                routes += [
                    web.get(collection, self._list),
                    web.post(collection, self._create),
                    web.get(f"{collection}/{{name}}", self._get),
                    web.put(f"{collection}/{{name}}", self._replace),
                    web.delete(f"{collection}/{{name}}", self._delete),
                ]
        return routes

    def _authorize(self, request: web.Request) -> str:
        identity = caller_identity(request, self._verifier)
        return require_operator(identity, self._catalog.tables, cluster=self._cluster)

    async def _groups(self, request: web.Request) -> web.Response:
        self._authorize(request)
        version = {"groupVersion": API_VERSION, "version": VERSION}
        group = {"name": GROUP, "versions": [version], "preferredVersion": version}
        return json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})

    async def _kinds(self, request: web.Request) -> web.Response:
        self._authorize(request)
        resources = [
            {
                "name": kind.plural,
                "singularName": kind.name.lower(),
                "namespaced": kind.namespaced,
                "kind": kind.name,
                "verbs": _verbs(kind),
            }
            for kind in KINDS.values()
        ]
        return json_response(
            {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": API_VERSION,
                "resources": resources,
            }
        )

    async def _get(self, request: web.Request) -> web.Response:
        self._authorize(request)
        await self._fresh(request)
        return json_response(to_object(resource(self._catalog.tables, self._key(request))))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self._authorize(request)
        kind = kind_of_plural(request.match_info["plural"])
        if request.query.get("watch") in ("1", "true"):
            return await self._watch(request, kind)
        await self._fresh(request)
        tables = self._catalog.tables
        items = [to_object(row) for row in self._rows(request, kind)]
        return json_response(
            {
                "kind": f"{kind.name}List",
                "apiVersion": API_VERSION,
                "metadata": {"resourceVersion": str(tables.revision)},
                "items": items,
            }
        )

    async def _create(self, request: web.Request) -> web.Response:
        return await self._write(request, create=True)

    async def _replace(self, request: web.Request) -> web.Response:
        return await self._write(request, create=False)

    async def _write(self, request: web.Request, *, create: bool) -> web.Response:
        operator = self._authorize(request)
        self._pace()
        manifest = decode_manifest(await read_body(request, RESOURCE_BYTES_MAX))
        kind = kind_of_plural(request.match_info["plural"])
        self._same("kind", manifest.kind, kind.name)
        for field in ("name", "namespace", "cluster"):
            in_path = request.match_info.get(field, "")
            if in_path and (in_body := getattr(manifest.metadata, field)):
                self._same(f"metadata.{field}", in_body, in_path)
        cluster = request.match_info.get("cluster", self._cluster)
        put = to_put(manifest, cluster=cluster, create=create)
        outcome = await self._proposer.write(put, request_id=_request_id(request, put))
        _log.info("resource_written", key=str(put.key), operator=operator, revision=outcome.revision)
        return json_response(
            to_object(resource(self._catalog.tables, put.key)), status=201 if create else 200
        )

    async def _delete(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        self._pace()
        key = self._key(request)
        mirror = mirror_enrollment(key, self._catalog.tables)
        if mirror is None and not KINDS[key.kind].deletable:
            raise NotAllowedError(f"{key}: {KINDS[key.kind].plural} cannot be deleted")
        expected = parse_revision(request.query.get("resourceVersion", ""), str(key))
        also = () if mirror is None else (Delete(key=mirror),)
        outcome = await self._proposer.write(Delete(key=key, expected_revision=expected), *also)
        _log.info("resource_deleted", key=str(key), operator=operator, revision=outcome.revision)
        return json_response(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": str(outcome.revision)},
                "status": "Success",
            }
        )

    async def _watch(self, request: web.Request, kind: Kind) -> web.StreamResponse:
        start = parse_revision(request.query.get("resourceVersion", ""), "watch")
        revision = self._catalog.revision if start is None else start
        if revision > self._catalog.revision:
            raise InvalidInputError(
                f"watch: resourceVersion {revision} is in the future, the newest is {self._catalog.revision}"
            )
        if self._watching >= WATCHES_MAX:
            raise LimitExceededError(f"{WATCHES_MAX} watches are open, no more are allowed")
        self._catalog.history(revision)  # Compacted: say so with a status, before the stream begins.
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._watching += 1
        try:
            judged_s = asyncio.get_running_loop().time()
            async for event in self._events(request, kind, revision):
                if (now_s := asyncio.get_running_loop().time()) - judged_s >= WATCHER_JUDGED_S:
                    self._authorize(request)
                    judged_s = now_s
                await response.write(msgspec.json.encode(event) + b"\n")
        except (CompactedError, BadIdentityError, NotAllowedError) as error:
            what = {"code": HTTP_STATUS[error.code], "message": error.message}
            await response.write(msgspec.json.encode({"type": "ERROR", "object": what}) + b"\n")
        finally:
            self._watching -= 1
        return response

    async def _events(self, request: web.Request, kind: Kind, revision: int) -> Any:
        async for at, changes in self._watches.changes(revision):
            for change in changes:
                if change.table != "resources":
                    continue
                key = ResourceKey.decode(change.key)
                if key.kind != kind.name or not self._inside(request, key):
                    continue
                if change.value is None:
                    gone = {"name": key.name, "resourceVersion": str(at)}
                    gone |= {"namespace": key.namespace} if key.namespace else {}
                    gone |= {"cluster": key.scope} if key.scope else {}
                    yield {
                        "type": "DELETED",
                        "object": {"apiVersion": API_VERSION, "kind": kind.name, "metadata": gone},
                    }
                else:
                    row = unpack_resource(change.value)
                    yield {
                        "type": "ADDED" if row.created_revision == at else "MODIFIED",
                        "object": to_object(row),
                    }

    def _pace(self) -> None:
        """Count one write; raises `LimitExceededError` where this cluster's quota wants them slower."""
        quota = quota_of(self._catalog.tables, self._cluster)
        spec, now_s = quota.spec, asyncio.get_running_loop().time()
        if self._writes is None:
            self._writes = Bucket(per_second=spec.writes_per_second, burst=spec.writes_burst, now_s=now_s)
        self._writes.limit(per_second=spec.writes_per_second, burst=spec.writes_burst, now_s=now_s)
        if wait_s := self._writes.wait_s(1, now_s):
            raise LimitExceededError(
                f"cluster {self._cluster}: more than {spec.writes_per_second} writes a second after a burst of"
                f" {spec.writes_burst}, by {quota.source} spec.writesPerSecond: try again in {wait_s:.2f} s"
            )
        self._writes.take(1, now_s)

    def _rows(self, request: web.Request, kind: Kind) -> Iterator[Resource]:
        tables = self._catalog.tables
        if not kind.scoped:
            scopes = [FEDERATION_SCOPE]
        elif "cluster" in request.match_info:
            scopes = [request.match_info["cluster"]]
        else:
            clusters = tables.resources.items(b"\0Cluster\0")
            scopes = [ResourceKey.decode(key).name for key, _ in clusters]
        for scope in scopes:
            for _, value in tables.resources.items(f"{scope}\0{kind.name}\0".encode()):
                row = unpack_resource(value)
                if self._inside(request, row.key):
                    yield row

    @staticmethod
    def _inside(request: web.Request, key: ResourceKey) -> bool:
        namespace = request.match_info.get("namespace")
        cluster = request.match_info.get("cluster")
        return (namespace is None or key.namespace == namespace) and (
            cluster is None or key.scope in (cluster, FEDERATION_SCOPE)
        )

    def _key(self, request: web.Request) -> ResourceKey:
        kind = kind_of_plural(request.match_info["plural"])
        info = request.match_info
        scope = info.get("cluster", self._cluster) if kind.scoped else FEDERATION_SCOPE
        namespace = info.get("namespace", "")
        if bool(namespace) != kind.namespaced:
            expected = "expected /namespaces/NAME/" if kind.namespaced else "expected no /namespaces/"
            raise InvalidInputError(f"{info['plural']}/{info['name']}: {expected} in the path")
        if any("\0" in part for part in (scope, namespace, info["name"])):
            raise InvalidInputError("a name in the path holds a zero byte")
        return ResourceKey(scope, kind.name, namespace, info["name"])

    async def _fresh(self, request: web.Request) -> None:
        """Reads are linearizable unless the client asks for any state: resourceVersion=0, as in Kubernetes."""
        if request.query.get("resourceVersion") != "0":
            await self._proposer.barrier()

    @staticmethod
    def _same(field: str, body: str, path: str) -> None:
        if body != path:
            raise InvalidInputError(f"{field}: the object says {body!r}, the path says {path!r}")
