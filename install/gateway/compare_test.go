package gateway

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	const gw = `{"namespace":"shop","name":"wp","services":true}`
	service := func(name, protocol string) string {
		return `{"namespace":"shop","hostname":"` + name + `","ports":[{"number":80,"protocol":"` + protocol + `"}]}`
	}
	facts, err := ReadFacts(strings.NewReader(`{"gateway":` + gw + `,"services":[` + service("same", "HTTP1") + `,` + service("old", "TCP") + `,` + service("gone", "TCP") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	var sent Sent
	item := func(name, resource string) string {
		return `{"name":"shop/wp/` + name + `","resource":` + resource + `}`
	}
	text := `{"gateway":[` + item("gateway", gw) + `],"service":[` + item("shop/same", service("same", "HTTP1")) + `,` +
		item("shop/old", service("old", "HTTP1")) + `,` + item("shop/new", service("new", "HTTP1")) + `]}`
	if err := json.Unmarshal([]byte(text), &sent); err != nil {
		t.Fatal(err)
	}
	kinds, err := Compare(sent, facts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range kinds {
		got = append(got, k.String())
	}
	want := "Gateway match (1)\nHosts match (0)\n" +
		"Services differ: not at the proxy: shop/wp/shop/new; only at the proxy: shop/wp/shop/gone; another content: shop/wp/shop/old\nDestinations match (0)"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
	sent["gateway"][0].Resource = json.RawMessage(`[]`)
	if _, err := Compare(sent, facts); err == nil {
		t.Error("nonsense was compared")
	}
}
