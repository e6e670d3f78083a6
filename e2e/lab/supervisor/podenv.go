package supervisor

import (
	"maps"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// env is a container's environment.
func (k *kubelet) env(c resource.Container) []string {
	env := map[string]string{
		"PATH": strings.Join(append(slices.Clone(k.s.start.Path), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":"),
		"HOME": "/root", "HOSTNAME": k.hostname(),
	}
	for _, v := range c.Env {
		value := v.Value
		if v.ValueFrom != nil && v.ValueFrom.FieldRef != nil {
			value = k.field(v.ValueFrom.FieldRef.FieldPath)
		}
		if v.ValueFrom != nil && v.ValueFrom.ResourceFieldRef != nil {
			value = k.spec.Limit(c.Name, *v.ValueFrom.ResourceFieldRef)
		}
		env[v.Name] = expand(value, env)
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// expand replaces $(NAME), as Kubernetes does in values, commands and arguments.
func expand(s string, env map[string]string) string {
	for name, value := range env {
		s = strings.ReplaceAll(s, "$("+name+")", value)
	}
	return s
}

func (k *kubelet) field(path string) string {
	for _, kind := range []string{"labels", "annotations"} {
		if name, ok := strings.CutPrefix(path, "metadata."+kind+"['"); ok {
			return k.doc.Strings("metadata", kind)[strings.TrimSuffix(name, "']")]
		}
	}
	all := texts(k.addrs)
	switch path {
	case "status.podIP":
		return all[0]
	case "status.podIPs":
		return strings.Join(all, ",")
	case "status.hostIP":
		return k.host.Addrs[0].String()
	case "spec.nodeName":
		return k.host.Name
	case "metadata.uid":
		return k.uid
	case "metadata.labels":
		return pairs(k.doc.Labels())
	case "metadata.annotations":
		return pairs(k.doc.Annotations())
	}
	return k.doc.Text(strings.Split(path, ".")...)
}
