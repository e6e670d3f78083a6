package analyze

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ambit-mesh/ambit/control/status"
)

// Analyzer is one kind of finding.
type Analyzer struct {
	Code  status.Code `json:"code"`
	Name  string      `json:"name"`
	Level Level       `json:"level"`
	// Summary is what it finds, in a few words.
	Summary string `json:"summary"`
}

// Catalog lists all analyzers in order of code.
func Catalog() []Analyzer {
	out := make([]Analyzer, 0, len(catalog))
	for _, code := range slices.SortedFunc(maps.Keys(catalog), cmp.Compare[status.Code]) {
		out = append(out, Analyzer{Code: code, Name: catalog[code].Name, Level: catalog[code].Level, Summary: catalog[code].Summary})
	}
	return out
}

// catalog has every code there is. docs/analyze.md has a paragraph for each.
var catalog = map[status.Code]Analyzer{
	status.NotUnderstood:     {Name: "NotUnderstood", Level: Error, Summary: "a document is no YAML, or it is not clear which object it is about"},
	status.UnknownField:      {Name: "UnknownField", Level: Error, Summary: "a field that does not exist, mostly a misspelt one"},
	status.WrongValue:        {Name: "WrongValue", Level: Error, Summary: "a value that is missing or not allowed"},
	status.UnknownKind:       {Name: "UnknownKind", Level: Error, Summary: "a kind or version that does not exist"},
	status.DoubtfulValue:     {Name: "DoubtfulValue", Level: Warning, Summary: "a value that hardly means what was meant"},
	status.NotCarriedOut:     {Name: "FieldNotCarriedOut", Level: Warning, Summary: "a field that means something in Istio and nothing here"},
	status.KindWithoutEffect: {Name: "KindWithoutEffect", Level: Warning, Summary: "an object of a kind that this mesh has no use for"},
	status.OldVersion:        {Name: "OldVersion", Level: Info, Summary: "an API version or field that has a successor"},
	status.DefinedTwice:      {Name: "DefinedTwice", Level: Warning, Summary: "an object that several documents define"},

	status.HostNotFound:       {Name: "HostNotFound", Level: Warning, Summary: "a route or rule for a service that does not exist"},
	status.BackendNotFound:    {Name: "BackendNotFound", Level: Error, Summary: "a route to a service, port or subset that does not exist"},
	status.ParentNotFound:     {Name: "ParentNotFound", Level: Error, Summary: "a route that is attached to nothing"},
	status.RouteNotCarriedOut: {Name: "RouteNotCarriedOut", Level: Warning, Summary: "a route that no waypoint or gateway carries out"},
	status.RivalRoutes:        {Name: "RivalRoutes", Level: Warning, Summary: "routes that claim the same requests"},
	status.DuplicateSubset:    {Name: "DuplicateSubset", Level: Warning, Summary: "a subset that two DestinationRules define for a host"},
	status.AddressConflict:    {Name: "AddressConflict", Level: Warning, Summary: "an address that two objects claim"},
	status.HostConflict:       {Name: "HostConflict", Level: Warning, Summary: "a hostname that two objects of a namespace claim"},
	status.EndpointUnusable:   {Name: "EndpointUnusable", Level: Warning, Summary: "an endpoint that cannot be reached, or none at all"},
	status.NotHidden:          {Name: "NotHidden", Level: Warning, Summary: "an exportTo that does not hide"},
	status.ListenerUnusable:   {Name: "ListenerUnusable", Level: Warning, Summary: "a listener that cannot serve"},
	status.SubsetEmpty:        {Name: "SubsetEmpty", Level: Warning, Summary: "a subset that no pod is in"},
	status.CertificateMissing: {Name: "CertificateMissing", Level: Error, Summary: "a certificate that is named and not there"},

	status.WaypointMissing:    {Name: "WaypointMissing", Level: Error, Summary: "a label asks for a waypoint that does not exist"},
	status.WaypointNotReady:   {Name: "WaypointNotReady", Level: Warning, Summary: "a waypoint that is asked for and has no address yet"},
	status.WaypointForOthers:  {Name: "WaypointForOthers", Level: Warning, Summary: "a waypoint that does not take the kind of traffic it is asked to"},
	status.UnknownClass:       {Name: "UnknownClass", Level: Error, Summary: "a Gateway of a class that nobody serves"},
	status.CanaryUnusable:     {Name: "CanaryUnusable", Level: Warning, Summary: "a canary waypoint that cannot be used"},
	status.WaypointNotAllowed: {Name: "WaypointNotAllowed", Level: Error, Summary: "a waypoint that does not admit the namespace"},
	status.OtherRevision:      {Name: "OtherRevision", Level: Warning, Summary: "a Gateway for the control plane of another revision"},

	status.SelectsNothing:      {Name: "SelectsNothing", Level: Warning, Summary: "a policy whose selector chooses nothing"},
	status.BeyondNodeProxy:     {Name: "BeyondNodeProxy", Level: Error, Summary: "a policy about requests where nobody sees requests"},
	status.TargetNotFound:      {Name: "TargetNotFound", Level: Error, Summary: "a policy for an object that does not exist"},
	status.TargetUnenforced:    {Name: "TargetUnenforced", Level: Error, Summary: "a policy for an object without a waypoint to enforce it"},
	status.OtherRootNamespace:  {Name: "OtherRootNamespace", Level: Warning, Summary: "a mesh-wide policy in the root namespace of another mesh"},
	status.GuardOpen:           {Name: "GuardOpen", Level: Warning, Summary: "policies that may be gone around, as somebody wished"},
	status.EndpointsNotInMesh:  {Name: "EndpointsNotInMesh", Level: Error, Summary: "endpoints outside the mesh, where a waypoint's policies can be gone around"},
	status.ForeignProxy:        {Name: "ForeignProxy", Level: Error, Summary: "a node proxy of another make, which lets what goes around a waypoint in"},
	status.WithoutEffect:       {Name: "WithoutEffect", Level: Warning, Summary: "an object or field that has no effect as it stands"},
	status.StrictLocksOut:      {Name: "StrictLocksOut", Level: Info, Summary: "clients outside the mesh that strict mutual TLS keeps out"},
	status.ProviderMissing:     {Name: "ProviderMissing", Level: Error, Summary: "an extension provider that is named and not configured"},
	status.PolicyBypassed:      {Name: "PolicyBypassed", Level: Warning, Summary: "a route that leads past another service's policy"},
	status.KeysMissing:         {Name: "KeysMissing", Level: Error, Summary: "keys for tokens that could not be fetched"},
	status.ExtensionUnusable:   {Name: "ExtensionUnusable", Level: Error, Summary: "an extension that cannot run"},
	status.PolicyPartlyApplied: {Name: "PolicyPartlyApplied", Level: Warning, Summary: "a policy that is carried out for more than it says"},
	status.PortUnknown:         {Name: "PortUnknown", Level: Warning, Summary: "a setting for a port that no chosen pod serves"},
	status.TokenOptional:       {Name: "TokenOptional", Level: Warning, Summary: "tokens that are checked and that nobody demands"},

	status.InjectionAndAmbient: {Name: "InjectionAndAmbient", Level: Warning, Summary: "sidecar injection and ambient mode together"},
	status.SidecarInAmbient:    {Name: "SidecarInAmbient", Level: Warning, Summary: "a pod with a sidecar in an ambient namespace"},
	status.SelectsOutside:      {Name: "SelectsOutside", Level: Error, Summary: "a policy over pods that the mesh does not take"},
	status.EnrolmentMisspelt:   {Name: "EnrolmentMisspelt", Level: Error, Summary: "a label of the mesh that is misspelt, or that nobody reads where it is"},
	status.NotCaptured:         {Name: "NotCaptured", Level: Error, Summary: "a pod that is to be in the mesh and is not"},

	status.BlocksHBONE:           {Name: "BlocksHBONE", Level: Error, Summary: "a NetworkPolicy that keeps the mesh's own port closed"},
	status.BlocksProbes:          {Name: "BlocksProbes", Level: Warning, Summary: "a NetworkPolicy that may keep the kubelet's probes out"},
	status.WidenedByHBONE:        {Name: "WidenedByHBONE", Level: Warning, Summary: "a NetworkPolicy that lets more in than it says, inside the mesh"},
	status.NetworkPolicyInPart:   {Name: "NetworkPolicyInPart", Level: Warning, Summary: "a NetworkPolicy that the mesh enforces in part"},
	status.NetworkPolicyTooLarge: {Name: "NetworkPolicyTooLarge", Level: Error, Summary: "a NetworkPolicy with more than node proxies are told"},

	status.Operational: {Name: "Operational", Level: Warning, Summary: "what a running part says of itself"},
}
