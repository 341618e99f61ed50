package tokens

import "testing"

// Found by TestRestoredDatabase: between the restore and the next look at the log, a token that was not used before was
// admitted by the record of a flow that had ended.
func TestRecordOlderThanItsEndOpensNothing(t *testing.T) {
	x := newFixture(t)
	closed := map[string]uint64{}
	x.config.Live.AskClosed(func(kind, id string) (uint64, bool) {
		version, ok := closed[id]
		return version, ok && kind == flowKind
	})
	edr := x.start(dpsStart("ended"))
	renew := func() error {
		_, err := x.Renew(t.Context(), RenewRequest{
			RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
		})
		return err
	}
	closed["default/ended"] = 2 // of which the store knows nothing any more
	wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
	wantCode(t, renew(), CodeUnavailable)
	closed["default/ended"] = 1 // an end that a resume or a new flow came after
	for _, err := range []error{x.verify(edr.AccessToken), renew()} {
		if err != nil {
			t.Error(err)
		}
	}
	x.must(x.Terminate(t.Context(), controlPlane, x.message("ended", "m1")))
	closed["default/ended"] = 99
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
}
