//go:build unix

package pgtest

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who runs the server when this process is root's: PostgreSQL refuses root.
type account struct{ uid, gid int }

// unprivileged returns nil if this process is not root's.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errU := strconv.Atoi(found.Uid)
		gid, errG := strconv.Atoi(found.Gid)
		err = errors.Join(errU, errG)
		if err != nil {
			return nil, err
		}
		return &account{uid: uid, gid: gid}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
}

// giveAway makes all in dir the server's.
func giveAway(dir string) error {
	a, err := unprivileged()
	if a == nil || err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, a.uid, a.gid)
	})
}

// runUnprivileged has the command run as the server's user in dir, in a group of processes of its own: a signal to the
// tests' group is not for it.
func runUnprivileged(command *exec.Cmd, dir string) error {
	command.Dir = dir
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	a, err := unprivileged()
	if a == nil || err != nil {
		return err
	}
	command.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	return nil
}
