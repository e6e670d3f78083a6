package render

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/install/charts"
)

// TestPluginAccount: what a node keeps while no agent runs on it may read a pod, and the agent may make tokens of that account
// alone.
func TestPluginAccount(t *testing.T) {
	const account = "ambit-cni-plugin"
	rights := map[string][]string{} // of each role
	bound := map[string][]string{}  // roles of each account
	env := ""
	for _, c := range rendered(t) {
		if c.Name != charts.CNI {
			continue
		}
		for _, o := range c.Objects {
			name := o["metadata"].(map[string]any)["name"].(string)
			switch o["kind"] {
			case "ClusterRole", "Role":
				for _, r := range o["rules"].([]any) {
					rule := r.(map[string]any)
					rights[name] = append(rights[name], words(rule["verbs"])+" "+words(rule["resources"])+" "+words(rule["resourceNames"]))
				}
			case "ClusterRoleBinding", "RoleBinding":
				for _, s := range o["subjects"].([]any) {
					who := s.(map[string]any)["name"].(string)
					bound[who] = append(bound[who], o["roleRef"].(map[string]any)["name"].(string))
				}
			case "DaemonSet":
				text, err := YAML([]map[string]any{o})
				if err != nil {
					t.Fatal(err)
				}
				env = string(text)
			}
		}
	}
	if roles := bound[account]; len(roles) != 1 || strings.Join(rights[roles[0]], "; ") != "get pods,namespaces " {
		t.Errorf("%s has %v of %v", account, bound[account], rights)
	}
	may := false
	for _, role := range bound["ambit-cni"] {
		for _, r := range rights[role] {
			may = may || r == "create serviceaccounts/token "+account
			if strings.Contains(r, "serviceaccounts") && r != "create serviceaccounts/token "+account {
				t.Errorf("the agent may %s", r)
			}
		}
	}
	if !may {
		t.Errorf("the agent may make no token: %v", rights)
	}
	if !strings.Contains(env, "name: AMBIT_CNI_PLUGIN_ACCOUNT\n          value: "+account) {
		t.Errorf("the agent is not told of the account: %s", env)
	}
}

func rendered(t *testing.T) []Component {
	t.Helper()
	out, err := Render(values(t, DefaultProfile), Options{Namespace: "mesh-system", Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func words(list any) string {
	items, _ := list.([]any)
	var out []string
	for _, i := range items {
		out = append(out, i.(string))
	}
	return strings.Join(out, ",")
}
