package tokens

import (
	"bytes"
	"fmt"
	"testing"
)

func TestSealerOpensForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{7}, minSecretKeyBytes)
	s, err := NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	value, err := s.Seal(nil, "default/flow-1", "CANARY")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(value.Data, []byte("CANARY")) || fmt.Sprint(value, s) != "redacted sealer of 1 keys" {
		t.Errorf("the secret or the key shows: %v %v", value, s)
	}
	var got string
	err = s.Unseal(value, "default/flow-1", &got)
	if err != nil || got != "CANARY" {
		t.Errorf("opened %q, %v", got, err)
	}
	for _, c := range []struct{ name, owner string }{{"another record", "default/flow-2"}, {"no record", ""}} {
		err = s.Unseal(value, c.owner, &got)
		if err == nil {
			t.Errorf("%s opens it", c.name)
		}
	}
	other, err := NewSealer(bytes.Repeat([]byte{8}, minSecretKeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	err = other.Unseal(value, "default/flow-1", &got)
	if err == nil {
		t.Error("another key opens it")
	}
}

func TestSealerRotatesKeys(t *testing.T) {
	t.Parallel()
	old, next := bytes.Repeat([]byte{1}, minSecretKeyBytes), bytes.Repeat([]byte{2}, minSecretKeyBytes)
	before, err := NewSealer(old)
	if err != nil {
		t.Fatal(err)
	}
	value, err := before.Seal(nil, "owner", "secret")
	if err != nil {
		t.Fatal(err)
	}
	after, err := NewSealer(next, old)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	err = after.Unseal(value, "owner", &got)
	if err != nil || got != "secret" {
		t.Errorf("a value of the old key: %q, %v", got, err)
	}
	again, err := after.Seal(nil, "owner", "secret")
	if err != nil || again.Key == value.Key {
		t.Errorf("new values are sealed with key %s, %v", again.Key, err)
	}
}

func TestSealerNeedsKeys(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][][]byte{"none": nil, "short": {make([]byte, minSecretKeyBytes-1)}} {
		_, err := NewSealer(keys...)
		if err == nil {
			t.Errorf("%s: a sealer", name)
		}
	}
}
