//go:build kind

package kind

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pluginFolders are where the agent writes on a node's disk; what else it writes is in /run, which is memory.
const (
	confFolder = "/etc/cni/net.d"
	binFolder  = "/opt/cni/bin"
)

// A disk is a node whose folders of network plugins are small file systems of their own.
type disk struct {
	c    *cluster
	node string
	run  func(script string) string
}

// smallDisk puts a file system with hardly any room over each of the folders, with what they hold. Agents see it that start after
// that. When the story has ended the folders are as they were, and so is the node's agent.
func (c *cluster) smallDisk(node string) *disk {
	c.Helper()
	docker := c.machines()
	d := &disk{c: c, node: node, run: func(script string) string {
		c.Helper()
		return docker("exec", node, "sh", "-ec", script)
	}}
	c.Cleanup(func() {
		back := *c
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		back.ctx = ctx
		for _, folder := range []string{confFolder, binFolder} {
			out, err := exec.CommandContext(ctx, "docker", "exec", node, "sh", "-c", fmt.Sprintf("while mountpoint -q %[1]s; do umount %[1]s; done", folder)).CombinedOutput()
			if err != nil {
				c.Errorf("%s of %s is not as it was: %v: %s", folder, node, err, out)
			}
		}
		back.newAgent(node)
		back.rollout("DaemonSet", system, agents)
		back.allOfAll()
	})
	for _, folder := range []string{confFolder, binFolder} {
		// Room for the directory's own entries and little more.
		d.run(fmt.Sprintf(`cp -a %[1]s /run/story-disk
			mount -t tmpfs -o size=$(( $(du -sk /run/story-disk | cut -f1) + 64 ))k story %[1]s || { rm -r /run/story-disk; exit 1; }
			cp -a /run/story-disk/. %[1]s/ && rm -r /run/story-disk`, folder))
	}
	return d
}

// fill leaves no byte in a folder's file system.
func (d *disk) fill(folder string) {
	d.c.Helper()
	d.run(fmt.Sprintf(`dd if=/dev/zero of=%[1]s/story-filler bs=1k 2>/dev/null || true
		if echo more > %[1]s/story-more; then echo %[1]s is not full; exit 1; fi 2>/dev/null
		rm -f %[1]s/story-more`, folder))
}

func (d *disk) free(folder string) {
	d.c.Helper()
	d.run("rm " + folder + "/story-filler")
}

// newAgent has the node's agent end and waits until there is another one that runs, ready or not. It returns its name.
func (c *cluster) newAgent(node string) string {
	c.Helper()
	was, name := map[string]bool{}, ""
	for _, p := range c.pods(system, agentLabel) {
		if p.Spec.NodeName == node {
			was[p.Name] = true
			c.must(c.client.CoreV1().Pods(system).Delete(c.ctx, p.Name, metav1.DeleteOptions{}))
		}
	}
	c.eventually("another agent runs on "+node, func() error {
		for _, p := range c.pods(system, agentLabel) {
			if p.Spec.NodeName == node && !was[p.Name] && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Running != nil {
				name = p.Name
				return nil
			}
		}
		return fmt.Errorf("none does")
	})
	return name
}

// TestFullDisk fills the file systems that the agent writes to, after somebody has written the runtime's configuration without
// the mesh's plugin, and starts the agent anew: pods stay in the mesh, traffic goes on, the configuration stays whole, everybody
// is told what is full; and when there is room the agent does its work, without a restart.
func TestFullDisk(t *testing.T) {
	const ns = "full"
	c := open(t)
	url := c.shop(ns)
	// A node that has pods of the shop.
	node := c.pods(ns, "app=web")[0].Spec.NodeName
	d := c.smallDisk(node)
	name, text := d.effective()
	foreign := without(t, text)
	d.run("cat > " + name + " <<'END'\n" + foreign + "\nEND\n")
	_, foreign = d.effective()
	d.fill(confFolder)
	d.fill(binFolder)

	load := c.load(ns, "client", url, 50)
	agent := c.newAgent(node)
	c.eventually("an event of the agent says what is full", func() error {
		events, err := c.client.CoreV1().Events(system).List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + agent})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "MeshPluginNotInstalled" && strings.Contains(e.Message, confFolder) && strings.Contains(e.Message, "no space left on device") {
				return nil
			}
		}
		return fmt.Errorf("none of %d does", len(events.Items))
	})
	c.eventually("the metric says that the plugin is not installed", func() error {
		if v, err := c.gauge(agent, "istio_cni_install_ready"); err != nil || v != 0 {
			return fmt.Errorf("it is %v: %v", v, err)
		}
		return nil
	})
	if out, _, err := c.try("check"); err == nil || !strings.Contains(out, "on node "+node) || !strings.Contains(out, "no space left on device") || !strings.Contains(out, confFolder) {
		t.Errorf("ambitctl check does not say what is full: %v\n%s", err, out)
	}
	// What runs stays in the mesh, and what starts gets in.
	c.allOfAll()
	c.apply(ns, onNode("late", node, ""))
	c.ready(ns, "app=late")
	c.redirection(ns, "late", "enabled")
	c.answers(ns, "client", "http://"+c.pods(ns, "app=late")[0].Status.PodIP+":8080")
	if _, now := d.effective(); now != foreign {
		t.Errorf("the configuration has changed on the full disk:\n%s", now)
	}
	if left := d.run("ls -A " + confFolder + " " + binFolder); strings.Contains(left, ".tmp") {
		t.Errorf("left on the full disk: %s", left)
	}

	d.free(confFolder)
	d.free(binFolder)
	c.within(20*time.Second, "the plugin is in the configuration", func() error {
		if _, now := d.effective(); !strings.Contains(now, ourType) {
			return fmt.Errorf("%s", now)
		}
		return nil
	})
	c.rollout("DaemonSet", system, agents)
	if c.agentOf(node) != agent {
		t.Errorf("%s was replaced by %s", agent, c.agentOf(node))
	}
	for _, p := range c.pods(system, agentLabel) {
		if p.Name == agent && p.Status.ContainerStatuses[0].RestartCount > 0 {
			t.Errorf("%s was started again", agent)
		}
	}
	c.says("check", "ok")
	c.unharmed(load)
}

// effective is the configuration that the node's runtime reads, and where it is.
func (d *disk) effective() (name, text string) {
	d.c.Helper()
	name = strings.TrimSpace(d.run("ls " + confFolder + "/*.conflist | head -1"))
	return name, strings.TrimSpace(d.run("cat " + name))
}
