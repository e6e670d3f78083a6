package status

// Code names a kind of finding for people and machines that look for it, suppress it or read about it: docs/analyze.md
// has a paragraph for each. A code is never given to something else.
type Code string

// What is wrong with a document by itself.
const (
	NotUnderstood     Code = "AMB101" // no YAML, or not known what it is about
	UnknownField      Code = "AMB102"
	WrongValue        Code = "AMB103" // refused
	UnknownKind       Code = "AMB104" // kind or version misspelt
	DoubtfulValue     Code = "AMB105" // in force, but hardly what was meant
	NotCarriedOut     Code = "AMB106" // a field that means something elsewhere
	KindWithoutEffect Code = "AMB107"
	OldVersion        Code = "AMB108"
	DefinedTwice      Code = "AMB109"
)

// What is wrong between services, routes and gateways.
const (
	HostNotFound       Code = "AMB201"
	BackendNotFound    Code = "AMB202" // a destination, subset or port
	ParentNotFound     Code = "AMB203"
	RouteNotCarriedOut Code = "AMB204"
	RivalRoutes        Code = "AMB205"
	DuplicateSubset    Code = "AMB206"
	AddressConflict    Code = "AMB207"
	HostConflict       Code = "AMB208"
	EndpointUnusable   Code = "AMB209"
	NotHidden          Code = "AMB210" // exportTo
	ListenerUnusable   Code = "AMB211"
	SubsetEmpty        Code = "AMB212"
	CertificateMissing Code = "AMB213"
)

// What is wrong with waypoints.
const (
	WaypointMissing    Code = "AMB301"
	WaypointNotReady   Code = "AMB302"
	WaypointForOthers  Code = "AMB303" // istio.io/waypoint-for
	UnknownClass       Code = "AMB304"
	CanaryUnusable     Code = "AMB305"
	WaypointNotAllowed Code = "AMB306"
	OtherRevision      Code = "AMB307" // istio.io/rev
)

// What is wrong with policies, and where they are not enforced.
const (
	SelectsNothing      Code = "AMB401"
	BeyondNodeProxy     Code = "AMB402" // layer 7 where only layer 4 is seen
	TargetNotFound      Code = "AMB403"
	TargetUnenforced    Code = "AMB404"
	OtherRootNamespace  Code = "AMB405"
	GuardOpen           Code = "AMB406"
	EndpointsNotInMesh  Code = "AMB407"
	ForeignProxy        Code = "AMB408"
	WithoutEffect       Code = "AMB409"
	StrictLocksOut      Code = "AMB410"
	ProviderMissing     Code = "AMB411"
	PolicyBypassed      Code = "AMB412" // by a route of ours
	KeysMissing         Code = "AMB413"
	ExtensionUnusable   Code = "AMB414"
	PolicyPartlyApplied Code = "AMB415"
	PortUnknown         Code = "AMB416"
	TokenOptional       Code = "AMB417" // tokens are checked, and none is demanded
)

// What is wrong with enrolment.
const (
	InjectionAndAmbient Code = "AMB501"
	SidecarInAmbient    Code = "AMB502"
	SelectsOutside      Code = "AMB503" // a policy over pods that the mesh does not take
	EnrolmentMisspelt   Code = "AMB504"
	NotCaptured         Code = "AMB505"
)

// What is wrong with Kubernetes NetworkPolicies.
const (
	BlocksHBONE           Code = "AMB601"
	BlocksProbes          Code = "AMB602"
	WidenedByHBONE        Code = "AMB603"
	NetworkPolicyInPart   Code = "AMB604"
	NetworkPolicyTooLarge Code = "AMB605"
)

// Operational is what a running part says of itself or of what it could not do.
const Operational Code = "AMB901"
