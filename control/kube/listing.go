package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/ambit-mesh/ambit/control/object"
)

// The kinds of which there are many travel as protobuf and are decoded into Go types; of the others the JSON is read.
var (
	scheme     = newScheme()
	codecs     = serializer.NewCodecFactory(scheme)
	parameters = runtime.NewParameterCodec(scheme)
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	utilruntime.Must(discoveryv1.AddToScheme(s))
	return s
}

// builtin is a kind that every API server has.
type builtin struct {
	version  schema.GroupVersion
	resource string
	list     func() runtime.Object
	fields   string // selector
}

// notOurs keeps Secrets out that never hold a certificate and are many.
const notOurs = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson,type!=bootstrap.kubernetes.io/token"

func builtins() map[object.Kind]builtin {
	core, slices := corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion
	return map[object.Kind]builtin{
		object.KindNamespace:     {core, "namespaces", func() runtime.Object { return &corev1.NamespaceList{} }, ""},
		object.KindNode:          {core, "nodes", func() runtime.Object { return &corev1.NodeList{} }, ""},
		object.KindPod:           {core, "pods", func() runtime.Object { return &corev1.PodList{} }, ""},
		object.KindService:       {core, "services", func() runtime.Object { return &corev1.ServiceList{} }, ""},
		object.KindSecret:        {core, "secrets", func() runtime.Object { return &corev1.SecretList{} }, notOurs},
		object.KindConfigMap:     {core, "configmaps", func() runtime.Object { return &corev1.ConfigMapList{} }, ""},
		object.KindEndpointSlice: {slices, "endpointslices", func() runtime.Object { return &discoveryv1.EndpointSliceList{} }, ""},
	}
}

// typed lists and watches a kind with a Go type, in one namespace or, if that is empty, in all.
func (c *Cluster) typed(b builtin, namespace string) (*cache.ListWatch, error) {
	config := rest.CopyConfig(c.config)
	gv := b.version
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = codecs.WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", b.resource, err)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = b.fields
			list := b.list()
			return list, client.Get().Namespace(namespace).Resource(b.resource).VersionedParams(&o, parameters).Do(ctx).Into(list)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch, o.FieldSelector = true, b.fields
			return client.Get().Namespace(namespace).Resource(b.resource).VersionedParams(&o, parameters).Watch(ctx)
		},
	}, nil
}

// untyped lists and watches any kind.
func (c *Cluster) untyped(gvr schema.GroupVersionResource, labels, fields string) *cache.ListWatch {
	return selected(c.dynamic.Resource(gvr), labels, fields)
}

// one lists and watches one object.
func (c *Cluster) one(gvr schema.GroupVersionResource, namespace, name string) *cache.ListWatch {
	return selected(c.dynamic.Resource(gvr).Namespace(namespace), "", "metadata.name="+name)
}

func selected(client dynamic.ResourceInterface, labels, fields string) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector, o.FieldSelector = labels, fields
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch, o.LabelSelector, o.FieldSelector = true, labels, fields
			return client.Watch(ctx, o)
		},
	}
}

// listWatch follows the metadata of a kind.
func listWatch(client metadata.Getter) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return client.Watch(ctx, o)
		},
	}
}

// single is a store of at most one object, which tells of every change.
type single struct {
	changed func(*unstructured.Unstructured)
}

func (s *single) put(in any) error {
	if u, ok := in.(*unstructured.Unstructured); ok {
		s.changed(u)
	}
	return nil
}

// Add implements cache.ReflectorStore.
func (s *single) Add(in any) error { return s.put(in) }

// Update implements cache.ReflectorStore.
func (s *single) Update(in any) error { return s.put(in) }

// Delete implements cache.ReflectorStore.
func (s *single) Delete(any) error {
	s.changed(nil)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *single) Replace(list []any, _ string) error {
	if len(list) == 0 {
		s.changed(nil)
	}
	for _, in := range list {
		if err := s.put(in); err != nil {
			return err
		}
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *single) Resync() error { return nil }
