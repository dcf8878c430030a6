"""The Kubernetes project's own Python client against a daemon, over HTTPS with a kubeconfig.

    python_client.py KUBECONFIG read       what one request answers: pages, typed kinds, errors
    python_client.py KUBECONFIG log POD    a log that is followed until the pod ends, on standard output
    python_client.py KUBECONFIG follow     a watch that is closed and resumed until standard input ends
    python_client.py KUBECONFIG refused    nothing is answered to a credential that counts no more

Every check raises; the last line of a good run begins with "ok". It stays within what the version of
Debian 12 has (22.6) and is the same in the newest.
"""

import json
import sys
import threading
import time

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.resource import Resource

NAMESPACE = "shop"


def check(holds, *told):
    if not holds:
        raise AssertionError(*told)


def refusal(call):
    """The code, the HTTP reason and the Status of a call that must fail."""
    try:
        call()
    except ApiException as error:
        return error.status, error.reason, json.loads(error.body)
    raise AssertionError("it was answered")


def typed_lists():
    """A list of every kind that the typed client has a model for, by its place in discovery."""
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    return {
        ("v1", "configmaps"): core.list_config_map_for_all_namespaces,
        ("v1", "endpoints"): core.list_endpoints_for_all_namespaces,
        ("v1", "events"): core.list_event_for_all_namespaces,
        ("v1", "namespaces"): core.list_namespace,
        ("v1", "nodes"): core.list_node,
        ("v1", "persistentvolumeclaims"): core.list_persistent_volume_claim_for_all_namespaces,
        ("v1", "persistentvolumes"): core.list_persistent_volume,
        ("v1", "pods"): core.list_pod_for_all_namespaces,
        ("v1", "secrets"): core.list_secret_for_all_namespaces,
        ("v1", "services"): core.list_service_for_all_namespaces,
        ("apps/v1", "deployments"): apps.list_deployment_for_all_namespaces,
        ("apps/v1", "replicasets"): apps.list_replica_set_for_all_namespaces,
        ("storage.k8s.io/v1", "storageclasses"): client.StorageV1Api().list_storage_class,
        ("discovery.k8s.io/v1", "endpointslices"):
            client.DiscoveryV1Api().list_endpoint_slice_for_all_namespaces,
        ("coordination.k8s.io/v1", "leases"):
            client.CoordinationV1Api().list_lease_for_all_namespaces,
    }


def dynamic():
    """The client that knows no kinds and goes by discovery."""
    return DynamicClient(client.CoreV1Api().api_client)


def served():
    """Group version and plural of everything that discovery says can be listed."""
    found = dynamic().resources.search()
    found = [one for one in found if isinstance(one, Resource) and "list" in (one.verbs or [])]
    return [(one.group_version, one.name) for one in found]


def typed_kinds():
    """Every kind that is served decodes into the client's own model, which raises where a field that
    Kubernetes demands is missing, and has something in it."""
    lists, custom = typed_lists(), client.CustomObjectsApi()
    counts = {}
    for group_version, plural in served():
        listing = lists.get((group_version, plural))
        if listing is not None:
            listed = listing()
            check(listed.metadata.resource_version, plural)
            counts[plural] = len(listed.items)
        elif plural not in counts:
            # No model: our own kinds, and what metrics-server has. Its pods are no second pods.
            group, version = group_version.split("/")
            answer = custom.list_cluster_custom_object(group, version, plural)
            check(answer["apiVersion"] == group_version, answer)
            counts[plural] = len(answer["items"])
    missing = [key for key in lists if key[1] not in counts]
    check(not missing, "discovery does not name", missing)
    # Nothing differs from the commit, and it keeps no data; everything else the example has.
    empty = {plural for plural, count in counts.items() if count == 0}
    few = {"drifts", "persistentvolumeclaims", "persistentvolumes"}
    check(empty <= few, "nothing was there to decode of", empty)
    check(client.VersionApi().get_code().minor == "36")
    pods = dynamic().resources.get(api_version="v1", kind="Pod").get(namespace=NAMESPACE).items
    same = client.CoreV1Api().list_namespaced_pod(NAMESPACE).items
    check([pod.metadata.name for pod in pods] == [pod.metadata.name for pod in same])
    return len(counts)


def pages():
    """Page by page is the whole list, at one resourceVersion."""
    core = client.CoreV1Api()
    names, versions, following = [], set(), None
    count = 0
    while True:
        page = core.list_pod_for_all_namespaces(limit=2, _continue=following)
        check(len(page.items) <= 2, "a page is too long")
        names += [(pod.metadata.namespace, pod.metadata.name) for pod in page.items]
        versions.add(page.metadata.resource_version)
        count += 1
        following = page.metadata._continue
        if not following:
            break
        check(page.metadata.remaining_item_count > 0, "nothing remains, and it goes on")
    whole = core.list_pod_for_all_namespaces()
    check(names == [(pod.metadata.namespace, pod.metadata.name) for pod in whole.items], names)
    check(count > 2 and len(versions) == 1, count, versions)


def times_out():
    """A watch ends by itself when its time is over, and a second is a second."""
    core, begun = client.CoreV1Api(), time.monotonic()
    # A kind that nobody changes here.
    version = core.list_config_map_for_all_namespaces().metadata.resource_version
    events = watch.Watch().stream(
        core.list_config_map_for_all_namespaces, resource_version=version, timeout_seconds=1)
    check(list(events) == [])
    check(0.9 < time.monotonic() - begun < 10, time.monotonic() - begun)


def errors():
    """Errors are an ApiException with the HTTP code, its reason and a Status."""
    core = client.CoreV1Api()
    code, reason, status = refusal(lambda: core.read_namespaced_pod("nope", NAMESPACE))
    check((code, reason, status["reason"]) == (404, "Not Found", "NotFound"), status)
    check(status["message"] == 'pods "nope" not found', status)
    body = client.V1Pod(metadata=client.V1ObjectMeta(name="mine"), spec=client.V1PodSpec(
        containers=[client.V1Container(name="c", image="ballast.example/web:v1")]))
    for write in [
        lambda: core.create_namespaced_pod(NAMESPACE, body),
        lambda: core.patch_namespaced_config_map("web-config", NAMESPACE, {"data": {"a": "b"}}),
        lambda: core.delete_namespaced_service("web", NAMESPACE),
    ]:
        code, reason, status = refusal(write)
        check((code, reason, status["reason"]) == (403, "Forbidden", "Forbidden"), status)
        check("this cluster changes through Git: commit to main" in status["message"], status)
    made = core.create_namespaced_pod(NAMESPACE, body, dry_run="All")
    check(made.spec.restart_policy == "Always", "a dry run fills in the defaults")
    code, reason, status = refusal(lambda: core.list_namespaced_pod(
        NAMESPACE, resource_version="1", resource_version_match="Exact"))
    check((code, reason, status["reason"]) == (410, "Gone", "Expired"), status)
    code, reason, status = refusal(lambda: core.list_namespaced_pod(NAMESPACE, _continue="x"))
    check((code, reason, status["reason"]) == (400, "Bad Request", "BadRequest"), status)


def read():
    kinds = typed_kinds()
    pages()
    times_out()
    errors()
    core = client.CoreV1Api()
    pod = core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items[0]
    last = core.read_namespaced_pod_log(pod.metadata.name, NAMESPACE, tail_lines=1)
    check(last.count("\n") == 1, last)
    secret = core.read_namespaced_secret("api-key", NAMESPACE)
    check("bm90LWEtcmVhbC1rZXk=" not in secret.data.values(), "a viewer sees a Secret's value")
    print(f"ok: {kinds} kinds, pages, a watch's time, 404, 403, 410, a log, a Secret's hash")


def log(name):
    """Line by line until the pod ends."""
    core = client.CoreV1Api()
    print("following", flush=True)
    for line in watch.Watch().stream(core.read_namespaced_pod_log, name, NAMESPACE, follow=True):
        print(line, flush=True)
    print("ok: the log has ended", flush=True)


def told(event):
    meta = event["object"].metadata
    return event["type"], meta.name, int(meta.resource_version)


def follow():
    """Closes its watch after every third event, wherever that falls, and goes on from the last
    resourceVersion; a daemon that restarts meanwhile is waited for. What was seen must be what one
    undisturbed watch of the same time tells, and must add up to the list."""
    core, over = client.CoreV1Api(), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    first = core.list_namespaced_pod(NAMESPACE)
    begun = version = first.metadata.resource_version
    model = {pod.metadata.name: int(pod.metadata.resource_version) for pod in first.items}
    seen, opened, broken = [], 0, 0
    print("watching", flush=True)
    while True:
        # Asked before the last look, so that nothing of before it is missed.
        last = over.is_set()
        one, before = watch.Watch(), len(seen)
        try:
            opened += 1
            for event in one.stream(core.list_namespaced_pod, NAMESPACE, resource_version=version,
                                    timeout_seconds=1):
                seen.append(told(event))
                version = event["object"].metadata.resource_version
                if len(seen) - before == 3:
                    one.stop()
                    break
        except (urllib3.exceptions.HTTPError, ConnectionError) as error:
            broken += 1
            print(f"lost: {type(error).__name__}", flush=True)
            time.sleep(0.2)
            continue
        if last and len(seen) == before:
            break
    for kind, name, revision in seen:
        if kind == "DELETED":
            check(model.pop(name, None) is not None, "was not there:", name)
        else:
            check((kind == "ADDED") == (name not in model), kind, name)
            check(revision > model.get(name, 0), "went back:", name)
            model[name] = revision
    check(len({revision for _, _, revision in seen}) == len(seen), "told twice:", seen)
    check([one[2] for one in seen] == sorted(one[2] for one in seen), "out of order:", seen)
    now = {pod.metadata.name: int(pod.metadata.resource_version)
           for pod in core.list_namespaced_pod(NAMESPACE).items}
    check(model == now, "the list is", now, "the watch made it", model)
    again = []
    replay = watch.Watch()
    for event in replay.stream(core.list_namespaced_pod, NAMESPACE, resource_version=begun,
                               timeout_seconds=2):
        again.append(told(event))
        if len(again) == len(seen):
            replay.stop()
    check(again == seen, "undisturbed it is", again, "resumed it was", seen)
    print(f"ok: {len(seen)} events in {opened} watches, {broken} lost")


def refused():
    core = client.CoreV1Api()
    code, reason, status = refusal(lambda: core.list_namespaced_pod(NAMESPACE))
    check((code, reason, status["reason"]) == (401, "Unauthorized", "Unauthorized"), status)
    print("ok: 401")


if __name__ == "__main__":
    config.load_kube_config(sys.argv[1])
    {"read": read, "log": log, "follow": follow, "refused": refused}[sys.argv[2]](*sys.argv[3:])
