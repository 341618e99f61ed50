package badger

import (
	"fmt"
	"log/slog"
	"strings"
)

// engineLog takes what Badger logs. Badger's informational lines speak of tables and levels, so they are debug here; its
// own debug lines come several times for each commit and are dropped unformatted.
type engineLog struct{ log *slog.Logger }

func (l engineLog) Errorf(format string, args ...any) {
	l.log.Error("badger reports an error", "text", line(format, args))
}

func (l engineLog) Warningf(format string, args ...any) {
	l.log.Warn("badger warns", "text", line(format, args))
}

func (l engineLog) Infof(format string, args ...any) {
	l.log.Debug("badger informs", "text", line(format, args))
}

func (l engineLog) Debugf(string, ...any) {}

func line(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}
