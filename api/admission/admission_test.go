package admission

import (
	"strings"
	"testing"
)

// TestObjects: every rule is in one policy, with a message that names field and fix, and every policy is bound.
func TestObjects(t *testing.T) {
	objects := Objects("kube-system", "ambit-system")
	policies, bindings := map[string]string{}, map[string]string{}
	messages := map[string]int{}
	for _, o := range objects {
		name := o["metadata"].(Object)["name"].(string)
		spec := o["spec"].(Object)
		switch o["kind"] {
		case "ValidatingAdmissionPolicy":
			if policies[name] != "" {
				t.Errorf("%s stands twice", name)
			}
			policies[name] = "Deny"
			if strings.HasSuffix(name, "-warn"+suffix) {
				policies[name] = "Warn"
			}
			for _, v := range spec["validations"].([]any) {
				messages[v.(Object)["message"].(string)]++
			}
			for _, v := range spec["validations"].([]any) {
				for _, w := range variables() {
					if strings.Contains(v.(Object)["expression"].(string), "variables."+w.name) && !defines(spec, w.name) {
						t.Errorf("%s uses variable %s, which it does not have", name, w.name)
					}
				}
			}
		case "ValidatingAdmissionPolicyBinding":
			bindings[spec["policyName"].(string)] = spec["validationActions"].([]any)[0].(string)
			if spec["matchResources"] == nil {
				t.Errorf("%s: the namespaces to leave alone are not left alone", name)
			}
		}
	}
	for name, action := range policies {
		if bindings[name] != action {
			t.Errorf("%s is bound as %q, want %q", name, bindings[name], action)
		}
	}
	names := map[string]bool{}
	for _, r := range Rules() {
		id := r.Resource.Plural + "/" + r.Name
		if names[id] {
			t.Errorf("two rules are called %s", id)
		}
		names[id] = true
		if messages[r.Message()] == 0 {
			t.Errorf("%s is in no policy", id)
		}
		if r.Field == "" || r.Problem == "" || r.Fix == "" || len(r.Resource.Versions) == 0 {
			t.Errorf("%s does not say what is wrong where, and how it is mended", id)
		}
	}
	for _, o := range Objects() {
		if o["kind"] == "ValidatingAdmissionPolicyBinding" && o["spec"].(Object)["matchResources"] != nil {
			t.Error("a namespace is left alone that nobody named")
		}
	}
}

func defines(spec Object, name string) bool {
	list, _ := spec["variables"].([]any)
	for _, v := range list {
		if v.(Object)["name"] == name {
			return true
		}
	}
	return false
}
