package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used so far.
type usage struct {
	cpu  time.Duration
	peak int64 // bytes of resident memory at most
}

// usageOf asks Linux. The peak is VmHWM; ru_maxrss would not do, because a process inherits its parent's there.
func usageOf(pid int) (u usage, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	if u.peak, err = parsePeak(string(status)); err != nil {
		return u, err
	}
	u.cpu, err = parseCPU(string(stat))
	return u, err
}

func parsePeak(status string) (int64, error) {
	for line := range strings.Lines(status) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("no VmHWM in the process's status")
}

// parseCPU adds utime and stime, the 14th and 15th field, in ticks of 10 ms. The second one, the program's name, may hold blanks and brackets.
func parseCPU(stat string) (time.Duration, error) {
	_, behind, ok := strings.Cut(stat[max(0, strings.LastIndexByte(stat, ')')):], ") ")
	fields := strings.Fields(behind)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("the process's stat is %q", stat)
	}
	var ticks int64
	for _, text := range fields[11:13] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the process's stat is %q: %w", stat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
