//! Pure: the rows of [`super::supported`], a group a subject. Paths are the wire's.

use super::supported::Support::{Harmless, Only, Refused, Runs};
use super::supported::{Part, Row};
use super::supported_storage as storage;
use crate::object::Kind;

/// Every group; each has one part and at least one row.
pub static GROUPS: &[&[Row]] = &[
    CONTAINERS,
    INIT_CONTAINERS,
    CONTAINER_LIFE,
    INIT_CONTAINER_LIFE,
    EPHEMERAL_CONTAINERS,
    POD,
    POD_SECURITY,
    VOLUMES,
    DEPLOYMENT,
    REPLICA_SET,
    SERVICE,
    NAMESPACE,
    NODE,
    CONFIG_MAP,
    SECRET,
    EVENT,
    ENDPOINT_SLICE,
    LEASE,
    storage::CLAIM,
    storage::VOLUME,
    storage::CLASS,
];

macro_rules! rows {
    ($part:expr; $($support:expr => [$($path:expr),* $(,)?]),* $(,)?) => {
        &[$($(Row { part: $part, path: $path, support: $support },)*)*]
    };
}
pub(super) use rows;

const HOOK_SOCKET: &str =
    "Kubernetes itself never ran a hook that opens a socket; use exec or httpGet";
const SELINUX: &str = "SELinux labels are not passed to Docker";
const WINDOWS: &str = "nodes are Linux";
const TOLD_RESOURCES: &[&str] = &[
    "\"limits.cpu\"",
    "\"limits.memory\"",
    "\"requests.cpu\"",
    "\"requests.memory\"",
    "\"requests.ephemeral-storage\"",
];

/// What a container and an init container have in common.
macro_rules! container_rows {
    ($in:literal; $($more:tt)*) => { rows![Part::PodSpec;
        Runs => [
            concat!($in, "name"),
            concat!($in, "image"),
            concat!($in, "imagePullPolicy"),
            concat!($in, "command"),
            concat!($in, "args"),
            concat!($in, "workingDir"),
            concat!($in, "env[].name"),
            concat!($in, "env[].value"),
            concat!($in, "env[].valueFrom.configMapKeyRef.key"),
            concat!($in, "env[].valueFrom.configMapKeyRef.name"),
            concat!($in, "env[].valueFrom.configMapKeyRef.optional"),
            concat!($in, "env[].valueFrom.secretKeyRef.key"),
            concat!($in, "env[].valueFrom.secretKeyRef.name"),
            concat!($in, "env[].valueFrom.secretKeyRef.optional"),
            concat!($in, "env[].valueFrom.fieldRef.apiVersion"),
            concat!($in, "env[].valueFrom.fieldRef.fieldPath"),
            concat!($in, "env[].valueFrom.resourceFieldRef.containerName"),
            concat!($in, "env[].valueFrom.resourceFieldRef.divisor"),
            concat!($in, "envFrom[].prefix"),
            concat!($in, "envFrom[].configMapRef.name"),
            concat!($in, "envFrom[].configMapRef.optional"),
            concat!($in, "envFrom[].secretRef.name"),
            concat!($in, "envFrom[].secretRef.optional"),
            concat!($in, "ports[].name"),
            concat!($in, "ports[].containerPort"),
            // Judged by value: what nobody measures is refused.
            concat!($in, "resources.limits"),
            concat!($in, "resources.requests"),
            concat!($in, "volumeMounts[].name"),
            concat!($in, "volumeMounts[].mountPath"),
            concat!($in, "volumeMounts[].readOnly"),
            concat!($in, "terminationMessagePath"),
            concat!($in, "terminationMessagePolicy"),
            concat!($in, "volumeMounts[].mountPropagation"),
            // An engine that cannot do Enabled refuses the container.
            concat!($in, "volumeMounts[].recursiveReadOnly"),
            concat!($in, "volumeMounts[].subPath"),
            concat!($in, "volumeMounts[].subPathExpr"),
            concat!($in, "stdin"),
            concat!($in, "stdinOnce"),
            concat!($in, "tty"),
            concat!($in, "securityContext.runAsUser"),
            concat!($in, "securityContext.runAsGroup"),
            // Judged by value: together with user 0 it can never run.
            concat!($in, "securityContext.runAsNonRoot"),
            concat!($in, "securityContext.readOnlyRootFilesystem"),
            concat!($in, "securityContext.privileged"),
            concat!($in, "securityContext.allowPrivilegeEscalation"),
            concat!($in, "securityContext.capabilities.add"),
            concat!($in, "securityContext.capabilities.drop"),
            concat!($in, "securityContext.seccompProfile.type"),
            concat!($in, "securityContext.seccompProfile.localhostProfile"),
            concat!($in, "securityContext.appArmorProfile.type"),
            concat!($in, "securityContext.appArmorProfile.localhostProfile"),
        ],
        Only(&["\"TCP\"", "\"UDP\""], "SCTP is not forwarded") =>
            [concat!($in, "ports[].protocol")],
        Only(&["\"Default\""], "Kubernetes unmasks /proc with hostUsers: false only, and user namespaces are the engine's to set up") =>
            [concat!($in, "securityContext.procMount")],
        Harmless("resources of a running container are never changed in place") =>
            [concat!($in, "resizePolicy")],
        Only(TOLD_RESOURCES, "the node's disk does not stand for a limit that is not set") =>
            [concat!($in, "env[].valueFrom.resourceFieldRef.resource")],
        Refused("variables from files come with a later issue") =>
            [concat!($in, "env[].valueFrom.fileKeyRef")],
        Refused("there are no block volumes") => [concat!($in, "volumeDevices")],
        Refused("there is no dynamic resource allocation") => [concat!($in, "resources.claims")],
        Refused("restart rules by exit code come with a later issue") =>
            [concat!($in, "restartPolicyRules")],
        Refused(SELINUX) => [concat!($in, "securityContext.seLinuxOptions")],
        Refused(WINDOWS) => [concat!($in, "securityContext.windowsOptions")],
        Runs => [
            // Judged by value: a plain init container publishes none.
            concat!($in, "ports[].hostPort"),
            concat!($in, "ports[].hostIP"),
        ],
        $($more)*
    ] };
}

static CONTAINERS: &[Row] = container_rows!["containers[].";
    Refused("a container of the pod restarts as the pod's restartPolicy says") =>
        ["containers[].restartPolicy"],
];

static INIT_CONTAINERS: &[Row] = container_rows!["initContainers[].";
    Runs => ["initContainers[].restartPolicy"],
];

/// Probes and hooks; that a plain init container has none is validation's.
macro_rules! life_rows {
    ($in:literal; $($probe:literal),*; $($hook:literal),*) => { rows![Part::PodSpec;
        Runs => [concat!($in, "lifecycle.stopSignal")],
        $(Runs => [
            concat!($in, $probe, ".exec.command"),
            concat!($in, $probe, ".httpGet.host"),
            concat!($in, $probe, ".httpGet.httpHeaders[].name"),
            concat!($in, $probe, ".httpGet.httpHeaders[].value"),
            concat!($in, $probe, ".httpGet.path"),
            concat!($in, $probe, ".httpGet.port"),
            concat!($in, $probe, ".httpGet.scheme"),
            concat!($in, $probe, ".grpc.port"),
            concat!($in, $probe, ".grpc.service"),
            concat!($in, $probe, ".tcpSocket.host"),
            concat!($in, $probe, ".tcpSocket.port"),
            concat!($in, $probe, ".initialDelaySeconds"),
            concat!($in, $probe, ".periodSeconds"),
            concat!($in, $probe, ".timeoutSeconds"),
            concat!($in, $probe, ".successThreshold"),
            concat!($in, $probe, ".failureThreshold"),
            concat!($in, $probe, ".terminationGracePeriodSeconds"),
        ],
)*
        $(Runs => [
            concat!($in, "lifecycle.", $hook, ".exec.command"),
            concat!($in, "lifecycle.", $hook, ".httpGet.host"),
            concat!($in, "lifecycle.", $hook, ".httpGet.httpHeaders[].name"),
            concat!($in, "lifecycle.", $hook, ".httpGet.httpHeaders[].value"),
            concat!($in, "lifecycle.", $hook, ".httpGet.path"),
            concat!($in, "lifecycle.", $hook, ".httpGet.port"),
            concat!($in, "lifecycle.", $hook, ".httpGet.scheme"),
            concat!($in, "lifecycle.", $hook, ".sleep.seconds"),
        ],
        Refused(HOOK_SOCKET) => [concat!($in, "lifecycle.", $hook, ".tcpSocket")],)*
    ] };
}

static CONTAINER_LIFE: &[Row] = life_rows!["containers[].";
    "livenessProbe", "readinessProbe", "startupProbe"; "postStart", "preStop"];

static INIT_CONTAINER_LIFE: &[Row] = life_rows!["initContainers[].";
    "livenessProbe", "readinessProbe", "startupProbe"; "postStart", "preStop"];

/// Added to a running pod by whoever enters its containers; that a manifest has none is validation's.
static EPHEMERAL_CONTAINERS: &[Row] = container_rows!["ephemeralContainers[].";
    Runs => ["ephemeralContainers[].targetContainerName"],
    Harmless("no ephemeral container may have it: validation refuses it in Kubernetes' words") => [
        "ephemeralContainers[].lifecycle",
        "ephemeralContainers[].livenessProbe",
        "ephemeralContainers[].readinessProbe",
        "ephemeralContainers[].restartPolicy",
        "ephemeralContainers[].startupProbe",
    ],
];

static POD: &[Row] = rows![Part::PodSpec;
    Runs => [
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchExpressions[].key",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchExpressions[].operator",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchExpressions[].values",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields[].key",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields[].operator",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields[].values",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].key",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].operator",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].values",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].key",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].operator",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].values",
        "dnsConfig.nameservers",
        "dnsConfig.options[].name",
        "dnsConfig.options[].value",
        "dnsConfig.searches",
        "enableServiceLinks",
        "hostAliases[].hostnames",
        "hostAliases[].ip",
        // Two keys: `pod_security` and `second_key`.
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostname",
        "hostnameOverride",
        "nodeName",
        "nodeSelector",
        "activeDeadlineSeconds",
        "restartPolicy",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        // In the pod's own hosts file: there is no cluster DNS yet.
        "subdomain",
        "terminationGracePeriodSeconds",
        "tolerations[].effect",
        "tolerations[].key",
        "tolerations[].operator",
        "tolerations[].tolerationSeconds",
        "tolerations[].value",
        "imagePullSecrets[].name",
    ],
    // There is no cluster DNS yet, so the first two begin as Default does: with the host's servers.
    Only(&["\"ClusterFirst\"", "\"ClusterFirstWithHostNet\"", "\"Default\"", "\"None\""], "there are no other policies") =>
        ["dnsPolicy"],
    Only(&["\"default-scheduler\""], "there is one scheduler") => ["schedulerName"],
    Only(&["0"], "priorities come with preemption") => ["priority"],
    Only(&["true"], "user namespaces are the engine's to set up") => ["hostUsers"],
    Only(&["\"linux\""], WINDOWS) => ["os.name"],
    Harmless("no pod is ever preempted") => ["preemptionPolicy"],
    Harmless("there are no service accounts and no tokens: nothing is mounted, the name can be read by fieldRef") =>
        ["automountServiceAccountToken", "serviceAccount", "serviceAccountName"],
    Refused("the placement of pods by other pods comes with a later issue; use nodeAffinity") =>
        ["affinity.podAffinity", "affinity.podAntiAffinity"],
    Refused("spreading by topology comes with a later issue; replicas are spread over nodes already") =>
        ["topologySpreadConstraints"],
    Refused("priorities come with preemption") => ["priorityClassName"],
    Refused("there is one container runtime") => ["runtimeClassName", "overhead"],
    Refused("nobody could open the gate") => ["schedulingGates"],
    // Commits have no status, and people and their programs write none.
    Refused("nobody could open the gate: a pod's conditions are its node's and the scheduler's") =>
        ["readinessGates"],
    Refused("there is no gang scheduling") => ["schedulingGroup"],
    Refused("there is no dynamic resource allocation") => ["resourceClaims"],
    Refused("resources are a container's") => ["resources"],
];

static POD_SECURITY: &[Row] = rows![Part::PodSpec;
    Runs => [
        "securityContext.fsGroup",
        "securityContext.fsGroupChangePolicy",
        "securityContext.runAsUser",
        "securityContext.runAsGroup",
        // Judged by value: together with user 0 it can never run.
        "securityContext.runAsNonRoot",
        "securityContext.appArmorProfile.localhostProfile",
        "securityContext.appArmorProfile.type",
        "securityContext.seccompProfile.localhostProfile",
        "securityContext.seccompProfile.type",
        "securityContext.supplementalGroups",
        "securityContext.sysctls[].name",
        "securityContext.sysctls[].value",
    ],
    Only(&["\"Merge\""], "Docker adds the groups that the image's user is in") =>
        ["securityContext.supplementalGroupsPolicy"],
    Refused(SELINUX) =>
        ["securityContext.seLinuxOptions", "securityContext.seLinuxChangePolicy"],
    Refused(WINDOWS) => ["securityContext.windowsOptions"],
];

const STORAGE: &str =
    "storage from outside the host comes with a later issue; use persistentVolumeClaim";
const GONE: &str = "Kubernetes itself has removed this type";

static VOLUMES: &[Row] = rows![Part::PodSpec;
    Runs => [
        "volumes[].name",
        "volumes[].configMap.defaultMode",
        "volumes[].configMap.items[].key",
        "volumes[].configMap.items[].mode",
        "volumes[].configMap.items[].path",
        "volumes[].configMap.name",
        "volumes[].configMap.optional",
        "volumes[].secret.defaultMode",
        "volumes[].secret.items[].key",
        "volumes[].secret.items[].mode",
        "volumes[].secret.items[].path",
        "volumes[].secret.optional",
        "volumes[].secret.secretName",
        // Judged by value: paths that give the host away are refused.
        "volumes[].hostPath.path",
        "volumes[].hostPath.type",
        "volumes[].persistentVolumeClaim.claimName",
        "volumes[].persistentVolumeClaim.readOnly",
        // The node evicts who is beyond it; in memory the kernel holds it.
        "volumes[].emptyDir.sizeLimit",
    ],
    Only(&["\"Memory\""], "huge pages are not mounted") => ["volumes[].emptyDir.medium"],
    Runs => [
        "volumes[].downwardAPI.defaultMode",
        "volumes[].downwardAPI.items[].fieldRef.apiVersion",
        "volumes[].downwardAPI.items[].fieldRef.fieldPath",
        "volumes[].downwardAPI.items[].mode",
        "volumes[].downwardAPI.items[].path",
        "volumes[].downwardAPI.items[].resourceFieldRef.containerName",
        "volumes[].downwardAPI.items[].resourceFieldRef.divisor",
        "volumes[].projected.defaultMode",
        "volumes[].projected.sources[].configMap.items[].key",
        "volumes[].projected.sources[].configMap.items[].mode",
        "volumes[].projected.sources[].configMap.items[].path",
        "volumes[].projected.sources[].configMap.name",
        "volumes[].projected.sources[].configMap.optional",
        "volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion",
        "volumes[].projected.sources[].downwardAPI.items[].fieldRef.fieldPath",
        "volumes[].projected.sources[].downwardAPI.items[].mode",
        "volumes[].projected.sources[].downwardAPI.items[].path",
        "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.containerName",
        "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.divisor",
        "volumes[].projected.sources[].secret.items[].key",
        "volumes[].projected.sources[].secret.items[].mode",
        "volumes[].projected.sources[].secret.items[].path",
        "volumes[].projected.sources[].secret.name",
        "volumes[].projected.sources[].secret.optional",
    ],
    Only(TOLD_RESOURCES, "the node's disk does not stand for a limit that is not set") => [
        "volumes[].downwardAPI.items[].resourceFieldRef.resource",
        "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.resource",
    ],
    Refused("there are no service accounts and no tokens; mount a Secret with a credential of the pod's own") =>
        ["volumes[].projected.sources[].serviceAccountToken"],
    Refused("nobody signs certificates; mount a Secret or a ConfigMap that holds them") => [
        "volumes[].projected.sources[].clusterTrustBundle",
        "volumes[].projected.sources[].podCertificate",
    ],
    Refused("write a PersistentVolumeClaim and name it under persistentVolumeClaim") =>
        ["volumes[].ephemeral"],
    Refused("images as volumes come with a later issue") => ["volumes[].image"],
    Refused(STORAGE) => [
        "volumes[].awsElasticBlockStore",
        "volumes[].azureDisk",
        "volumes[].azureFile",
        "volumes[].cephfs",
        "volumes[].cinder",
        "volumes[].csi",
        "volumes[].fc",
        "volumes[].flexVolume",
        "volumes[].gcePersistentDisk",
        "volumes[].iscsi",
        "volumes[].nfs",
        "volumes[].portworxVolume",
        "volumes[].rbd",
        "volumes[].vsphereVolume",
    ],
    Refused(GONE) => [
        "volumes[].flocker",
        "volumes[].gitRepo",
        "volumes[].glusterfs",
        "volumes[].photonPersistentDisk",
        "volumes[].quobyte",
        "volumes[].scaleIO",
        "volumes[].storageos",
    ],
];

const TEMPLATE_METADATA: &str =
    "of a template's metadata Kubernetes uses labels, annotations and finalizers only";
const TEMPLATE_FINALIZERS: &str = "nobody would let the pods go";

/// What a Deployment and a ReplicaSet have in common.
macro_rules! workload_rows {
    ($kind:ident; $($more:tt)*) => { rows![Part::Object(Kind::$kind);
        Runs => [
            "spec.minReadySeconds",
            "spec.replicas",
            "spec.selector.matchExpressions[].key",
            "spec.selector.matchExpressions[].operator",
            "spec.selector.matchExpressions[].values",
            "spec.selector.matchLabels",
            "spec.template.metadata.annotations",
            "spec.template.metadata.labels",
        ],
        Refused(TEMPLATE_FINALIZERS) => ["spec.template.metadata.finalizers"],
        Harmless(TEMPLATE_METADATA) => [
            "spec.template.metadata.creationTimestamp",
            "spec.template.metadata.deletionGracePeriodSeconds",
            "spec.template.metadata.deletionTimestamp",
            "spec.template.metadata.generateName",
            "spec.template.metadata.generation",
            "spec.template.metadata.managedFields",
            "spec.template.metadata.name",
            "spec.template.metadata.namespace",
            "spec.template.metadata.ownerReferences",
            "spec.template.metadata.resourceVersion",
            "spec.template.metadata.selfLink",
            "spec.template.metadata.uid",
        ],
        $($more)*
    ] };
}

static DEPLOYMENT: &[Row] = workload_rows![Deployment;
    Runs => [
        "spec.paused",
        "spec.progressDeadlineSeconds",
        "spec.revisionHistoryLimit",
        "spec.strategy.rollingUpdate.maxSurge",
        "spec.strategy.rollingUpdate.maxUnavailable",
        "spec.strategy.type",
    ],
];

static REPLICA_SET: &[Row] = workload_rows![ReplicaSet;];

const BALANCER: &str = "there is no load balancer; use a NodePort Service";

static SERVICE: &[Row] = rows![Part::Object(Kind::Service);
    Runs => [
        // Judged by value: IPv4 or None.
        "spec.clusterIP",
        "spec.clusterIPs",
        "spec.ports[].name",
        "spec.ports[].nodePort",
        "spec.ports[].port",
        "spec.ports[].targetPort",
        "spec.publishNotReadyAddresses",
        "spec.selector",
    ],
    Only(&["\"ClusterIP\"", "\"NodePort\""], "there is no load balancer and no cluster DNS yet") =>
        ["spec.type"],
    Only(&["\"TCP\"", "\"UDP\""], "SCTP is not forwarded") => ["spec.ports[].protocol"],
    Only(&["\"None\""], "connections are spread at random") => ["spec.sessionAffinity"],
    Only(&["\"Cluster\""], "every node forwards to every endpoint") =>
        ["spec.externalTrafficPolicy", "spec.internalTrafficPolicy"],
    Only(&["[\"IPv4\"]"], "there is no IPv6") => ["spec.ipFamilies"],
    Only(&["\"SingleStack\"", "\"PreferDualStack\""], "there is no IPv6") => ["spec.ipFamilyPolicy"],
    Harmless("a word for whoever looks: packets are not read") => ["spec.ports[].appProtocol"],
    Harmless("belongs to sessionAffinity, which is refused") => ["spec.sessionAffinityConfig"],
    Harmless("belongs to the type LoadBalancer, which is refused") =>
        ["spec.allocateLoadBalancerNodePorts"],
    Refused("names in the cluster DNS come with it") => ["spec.externalName"],
    Refused("whoever can write a Service could catch another's traffic (CVE-2020-8554)") =>
        ["spec.externalIPs"],
    Refused("belongs to externalTrafficPolicy Local") => ["spec.healthCheckNodePort"],
    Refused(BALANCER) =>
        ["spec.loadBalancerClass", "spec.loadBalancerIP", "spec.loadBalancerSourceRanges"],
    Refused("every node forwards to every endpoint") => ["spec.trafficDistribution"],
];

static NAMESPACE: &[Row] = rows![Part::Object(Kind::Namespace);
    Runs => ["spec.finalizers"],
];

static NODE: &[Row] = rows![Part::Object(Kind::Node);
    Runs => [
        "spec.podCIDR",
        "spec.podCIDRs",
        "spec.taints[].effect",
        "spec.taints[].key",
        "spec.taints[].timeAdded",
        "spec.taints[].value",
        "spec.unschedulable",
    ],
    Harmless("a name for people") => ["spec.externalID", "spec.providerID"],
    Refused("a node is configured by its daemon's own configuration") => ["spec.configSource"],
];

static CONFIG_MAP: &[Row] = rows![Part::Object(Kind::ConfigMap);
    Runs => ["binaryData", "data", "immutable"],
];

static SECRET: &[Row] = rows![Part::Object(Kind::Secret);
    Runs => ["data", "immutable", "stringData", "type"],
];

static EVENT: &[Row] = rows![Part::Object(Kind::Event);
    Runs => [
        "action",
        "count",
        "eventTime",
        "firstTimestamp",
        "involvedObject",
        "lastTimestamp",
        "message",
        "reason",
        "related",
        "reportingComponent",
        "reportingInstance",
        "series",
        "source",
        "type",
    ],
];

static ENDPOINT_SLICE: &[Row] = rows![Part::Object(Kind::EndpointSlice);
    Runs => [
        "endpoints[].addresses",
        "endpoints[].conditions.ready",
        "endpoints[].conditions.serving",
        "endpoints[].conditions.terminating",
        "endpoints[].nodeName",
        "endpoints[].targetRef",
        "ports[].name",
        "ports[].port",
    ],
    Only(&["\"IPv4\""], "there is no IPv6 and no cluster DNS yet") => ["addressType"],
    Only(&["\"TCP\"", "\"UDP\""], "SCTP is not forwarded") => ["ports[].protocol"],
    Harmless("a word for whoever looks: packets are not read") => ["ports[].appProtocol"],
    Harmless("a name for the cluster DNS, once it is there") => ["endpoints[].hostname"],
    Harmless("every node forwards to every endpoint: a hint may be left aside") =>
        ["endpoints[].deprecatedTopology", "endpoints[].hints", "endpoints[].zone"],
];

static LEASE: &[Row] = rows![Part::Object(Kind::Lease);
    Runs => ["spec.holderIdentity", "spec.leaseDurationSeconds", "spec.renewTime"],
    Harmless("for whoever looks: a node's lease has one holder for ever") =>
        ["spec.acquireTime", "spec.leaseTransitions"],
    Refused("leader election by strategy comes with several servers") =>
        ["spec.preferredHolder", "spec.strategy"],
];
