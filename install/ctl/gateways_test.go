package ctl

import "testing"

func TestMatching(t *testing.T) {
	all := []instance{
		{namespace: "bookinfo", gateway: "waypoint", pod: "waypoint-a"}, {namespace: "foo", gateway: "waypoint", pod: "waypoint-b"},
		{namespace: "foo", gateway: "in", pod: "in-c"},
	}
	for want, pods := range map[string]string{
		"foo/waypoint": "waypoint-b ", "waypoint.foo": "waypoint-b ", "waypoint": "waypoint-a waypoint-b ", "in": "in-c ", "foo/in-c": "in-c ",
		"in-c.foo": "in-c ", "bookinfo/in": "", "nope": "", "foo/": "", "/": "",
	} {
		got := ""
		for _, i := range matching(all, want) {
			got += i.pod + " "
		}
		if got != pods {
			t.Errorf("%s: %s, want %s", want, got, pods)
		}
	}
}
