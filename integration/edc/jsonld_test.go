package edc

import (
	"encoding/json"
	"maps"
	"testing"
)

func parse(t testing.TB, text string) node {
	t.Helper()
	var n node
	err := json.Unmarshal([]byte(text), &n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMembersHaveManyNames: releases of EDC write the same member in different ways.
func TestMembersHaveManyNames(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"plain":             `{"state":"STARTED","dataset":{"@id":"a"},"format":"HttpData-PULL"}`,
		"prefixed":          `{"edc:state":"STARTED","dcat:dataset":[{"@id":"a"}],"dct:format":{"@id":"HttpData-PULL"}}`,
		"absolute":          `{"https://w3id.org/edc/v0.0.1/ns/state":"STARTED","http://www.w3.org/ns/dcat#dataset":[[{"@id":"a"}]],"http://purl.org/dc/terms/format":"HttpData-PULL"}`,
		"plain before both": `{"a:state":"OTHER","state":"STARTED","dataset":[{"@id":"a"}],"a:dataset":[],"format":"HttpData-PULL","a:format":"other"}`,
	} {
		n := parse(t, text)
		if n.text("state") != "STARTED" {
			t.Errorf("%s: state is %q", name, n.text("state"))
		}
		datasets := n.nodes("dataset")
		if len(datasets) != 1 || datasets[0].text("@id") != "a" {
			t.Errorf("%s: datasets are %v", name, datasets)
		}
		if n.id("format") != "HttpData-PULL" {
			t.Errorf("%s: format is %q", name, n.id("format"))
		}
	}
	empty := parse(t, `{"restate":"no","number":1}`)
	if empty.text("state") != "" || empty.text("number") != "" || empty.nodes("dataset") != nil || empty.id("format") != "" {
		t.Error("a member was found that is not there")
	}
}

// TestFullNames: consumers look an EDR's properties up by absolute names, whatever the context abbreviates.
func TestFullNames(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		edcNS + "endpoint":              "http://localhost/",
		edcNS + "authorization":         "a",
		tractusxAuthNS + "refreshToken": "r",
		"urn:other":                     "o",
	}
	for name, text := range map[string]string{
		"compacted": `{"@type":"DataAddress","endpoint":"http://localhost/","edc:authorization":"a",
			"https://w3id.org/tractusx/auth/refreshToken":"r","urn:other":"o","number":1,
			"@context":{"@vocab":"https://w3id.org/edc/v0.0.1/ns/","edc":"https://w3id.org/edc/v0.0.1/ns/"}}`,
		"without context": `{"https://w3id.org/edc/v0.0.1/ns/endpoint":"http://localhost/","urn:other":"o",
			"https://w3id.org/edc/v0.0.1/ns/authorization":"a","https://w3id.org/tractusx/auth/refreshToken":"r"}`,
	} {
		got := parse(t, text).fullNames()
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}
