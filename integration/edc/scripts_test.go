package edc

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tools are commands in a search path of their own. Each is a shell script.
type tools struct {
	t   testing.TB
	dir string
}

func newTools(t testing.TB, scripts map[string]string) *tools {
	t.Helper()
	f := &tools{t: t, dir: t.TempDir()}
	for name, script := range scripts {
		err := os.WriteFile(filepath.Join(f.dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700)
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// run runs a command with nothing in the environment but the search path: the tools, and then what else is given.
func (f *tools) run(path string, args ...string) (int, string) {
	f.t.Helper()
	command := exec.Command(args[0], args[1:]...)
	command.Env = []string{"PATH=" + f.dir + path}
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	err := command.Run()
	if command.ProcessState == nil {
		f.t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), output.String()
}

// TestRequirementsAreNamed: whoever lacks something is told of all of it, before anything is built or fetched.
func TestRequirementsAreNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tools map[string]string
		want  []string // each starts a line
	}{
		"all there": {map[string]string{
			"java": `echo 'openjdk version "21.0.2" 2024-01-16' >&2`, "mvn": `echo 'Apache Maven 3.8.7'`,
			"go": "", "bash": "", "gcc": "",
		}, nil},
		"empty path": {nil, []string{"Java 17 or newer: java is not there", "Maven 3: mvn is not", "Go:", "bash:", "a C compiler,"}},
		"old": {map[string]string{
			"java": `echo 'java version "1.8.0_401"' >&2`, "mvn": `echo 'Apache Maven 2.2.1'`, "go": "", "bash": "", "cc": "",
		}, []string{"Java 17 or newer: java is Java 1 ", "Maven 3: mvn is Maven 2"}},
		"broken": {
			map[string]string{"java": "exit 1", "mvn": "exit 1", "go": "", "bash": "", "clang": ""},
			[]string{"Java 17 or newer: java is Java 0 ", "Maven 3: mvn is Maven 0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, output := newTools(t, c.tools).run("", "./requirements.sh", "java", "maven", "go", "bash", "cc")
			if (status == 0) != (len(c.want) == 0) {
				t.Errorf("exit status %d", status)
			}
			lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
			if len(c.want) == 0 {
				lines = lines[1:]
			}
			if len(lines) != len(c.want) {
				t.Fatalf("want %d lines, have %q", len(c.want), output)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(lines[i], "interop: missing: "+want) {
					t.Errorf("line %d is %q, want %q", i+1, lines[i], want)
				}
			}
		})
	}
}

// TestInteropLooksBeforeItBuilds: with nothing in the search path, `make interop` fails and does nothing but say why.
func TestInteropLooksBeforeItBuilds(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("make")
	if err != nil {
		t.Fatal(err)
	}
	status, output := newTools(t, nil).run("", program, "-C", filepath.Join("..", ".."), "--no-print-directory", "interop")
	if status == 0 || !strings.Contains(output, "missing: Java 17") || !strings.Contains(output, "missing: Maven 3") {
		t.Errorf("exit status %d: %s", status, output)
	}
	for line := range strings.Lines(output) {
		// The command that make repeats, what is missing, and make's own line on the failure.
		if !strings.HasPrefix(line, "interop: missing: ") && !strings.Contains(line, "requirements.sh") && !strings.HasPrefix(line, "make") {
			t.Errorf("it did something else: %s", line)
		}
	}
}

// TestClassPathIsFoundOnce: Maven, which takes its time, is not asked again while all jars are there.
func TestClassPathIsFoundOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, jar, runs := filepath.Join(dir, "classpath"), filepath.Join(dir, "a.jar"), filepath.Join(dir, "runs")
	f := newTools(t, map[string]string{"mvn": "echo run >>" + runs + "; : >" + jar + "; echo " + jar + ":" + jar + " >" + file + ".partial"})
	for i, want := range []string{"run\n", "run\n", "run\nrun\n"} {
		if i == 2 {
			err := os.Remove(jar)
			if err != nil {
				t.Fatal(err)
			}
		}
		status, output := f.run(":/usr/bin:/bin", "./get-edc.sh", "0.11.1", file)
		got, err := os.ReadFile(runs)
		if status != 0 || err != nil || string(got) != want {
			t.Errorf("call %d: exit status %d, runs of Maven %q, want %q, %v: %s", i+1, status, got, want, err, output)
		}
	}
}

// TestJarsAreFetchedOnceAndAgain: what is in the local repository needs no network, a broken download is tried again, and
// when nothing helps it says what is wrong.
func TestJarsAreFetchedOnceAndAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		works  int // the number of the run of Maven that works; 0: none
		runs   int
		status int
		want   string // in the output
	}{
		"local repository": {works: 1, runs: 1},
		"download":         {works: 2, runs: 2, want: "getting EDC 0.15.1 from the Maven registry"},
		"second try":       {works: 3, runs: 3, want: "getting EDC 0.15.1"},
		"no network":       {runs: 4, status: 1, want: "cannot be had from the Maven registry, in 3 tries"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			runs := filepath.Join(dir, "runs")
			file := filepath.Join(dir, "classpath")
			works := "never"
			if c.works > 0 {
				works = string(rune('0' + c.works))
			}
			f := newTools(t, map[string]string{
				"sleep": "", // the waits between the tries
				"mvn": `echo "$*" >>` + runs + `
if [ "$(wc -l <` + runs + ` | tr -d ' ')" = ` + works + ` ]; then echo /jars/a.jar:/jars/b.jar >` + file + `.partial; exit; fi
echo '[ERROR] the registry is gone'
exit 1`,
			})
			status, output := f.run(":/usr/bin:/bin", "./get-edc.sh", "0.15.1", file)
			if status != c.status || !strings.Contains(output, c.want) {
				t.Errorf("exit status %d, want %d: %s", status, c.status, output)
			}
			log, err := os.ReadFile(runs)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(log)), "\n")
			if len(lines) != c.runs {
				t.Fatalf("Maven ran %d times, want %d: %s", len(lines), c.runs, log)
			}
			for i, line := range lines {
				if strings.Contains(line, "--offline") != (i == 0) || !strings.Contains(line, "-Dedr.cache.version=0.14.0") {
					t.Errorf("run %d of Maven: %s", i+1, line)
				}
			}
			class, err := os.ReadFile(file)
			if (err == nil) != (c.status == 0) || err == nil && string(class) != "/jars/a.jar:/jars/b.jar\n" {
				t.Errorf("class path %q, %v", class, err)
			}
			if c.status != 0 && !strings.Contains(output, "[ERROR] the registry is gone") {
				t.Errorf("it does not say what Maven said: %s", output)
			}
		})
	}
}
