package replica

import (
	"testing"

	"redferry/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }
