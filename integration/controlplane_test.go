package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// selector is what a control plane that is well does with what the gateway says of its own accord: it keeps a list of data
// planes, and takes callbacks.
type selector struct {
	t testing.TB

	mu   sync.Mutex
	list []map[string]any // as EDC shows it
	told []string         // paths of callbacks
}

const dataPlanesPath = "/dataplanes"

func (s *selector) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !strings.HasSuffix(r.URL.Path, dataPlanesPath):
		s.told = append(s.told, r.URL.Path)
	case r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(append([]map[string]any{}, s.list...))
	default:
		var m map[string]any
		err := json.NewDecoder(r.Body).Decode(&m)
		if err != nil {
			s.t.Errorf("registration: %v", err)
		}
		if m["dataplaneId"] != nil {
			m = map[string]any{"@id": m["dataplaneId"], "url": m["endpoint"], "allowedTransferTypes": m["transferTypes"]}
		}
		m["state"] = "REGISTERED"
		s.list = append(s.list, m)
	}
}

// heard returns the ids of what was registered, and the paths of callbacks, each in the order in which it came.
func (s *selector) heard() (registered []any, told []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.list {
		registered = append(registered, m["@id"])
	}
	return registered, append(told, s.told...)
}

// TestControlPlaneInTrouble: a control plane that answers 500, hangs or is away, while it is due to be told of an ending or
// of the gateway, is told once when it is back. Meanwhile the metrics show it, and the ending has taken effect.
func TestControlPlaneInTrouble(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		register, callback := "register dps http://%[1]s/management/v4"+dataPlanesPath, "/transfers/%s/dataflow/completed"
		if p.name() == "classic" {
			register, callback = "register classic http://%[1]s/control/v1"+dataPlanesPath, "/transferprocess/%s/fail"
		}
		for name, trouble := range map[string]http.HandlerFunc{"answers 500": failsInside, "hangs": hangs, "is away": nil} {
			t.Run(p.name()+" "+name, func(t *testing.T) {
				t.Parallel()
				well := &selector{t: t}
				control := newCalledPlane(t, trouble)
				if trouble != nil {
					control.arrive()
				}
				hosts, weather := newDIDHost(t), newBackend(t, "weather")
				g := newGateway(t, config{site: serves("weather", weather)})
				g.config.app = fmt.Sprintf("control_plane main {\ncallback http://%[1]s\n"+register+" {\nsignaling_url http://%[2]s\nid edrgate\n}\n}",
					control.address, g.signaling)
				g.start()
				c := newParty(g, p, hosts, "consumer", "weather")
				g.adminDo(http.MethodPost, flowPath(c.terms.flow)+"/revoke", "").want(t, http.StatusOK)
				wantRefusal(t, g.get("/", c.edr.access), "revoked", p.refused(), "")

				testkit.Eventually(t, "the metrics show that a registration and a callback are due", func() bool {
					m := g.scrape()
					return m.value("edrgate_registrations_missing") == 1 && m.value("edrgate_registrations_total", "result", "failed") > 0 &&
						m.value("edrgate_callbacks_owed") == 1 && m.value("edrgate_callbacks_total", "result", "retried") > 0
				})
				control.answers(well.answer)
				if trouble == nil {
					control.arrive()
				}
				testkit.Eventually(t, "both are delivered, and the metrics show it", func() bool {
					m := g.scrape()
					return m.value("edrgate_registrations_missing") == 0 && m.value("edrgate_callbacks_owed") == 0
				})
				registered, told := well.heard()
				if len(registered) != 1 || registered[0] != "edrgate" {
					t.Errorf("registered as %v, want one registration", registered)
				}
				if len(told) != 1 || told[0] != fmt.Sprintf(callback, c.terms.flow) {
					t.Errorf("told %v, want the one ending", told)
				}
				g.scrape().wantCount(g, 1, "edrgate_callbacks_total", "result", "delivered")
			})
		}
	}
}
