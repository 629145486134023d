package applier

// OriginalExpiry is the expiry, in Unix ms, that the source has for a key to which the target gives ms, and whether ms is shifted. What the source has beyond
// the shift comes as the shift's end, and stays so.
func OriginalExpiry(ms int64) (original int64, shifted bool) { return unshift(ms, keyShift) }

// OriginalFieldExpiry is the same for a hash field.
func OriginalFieldExpiry(ms int64) (original int64, shifted bool) { return unshift(ms, fieldShift) }

func unshift(ms, shift int64) (int64, bool) {
	if isShifted(ms, shift) {
		return ms - shift, true
	}
	return ms, false
}
