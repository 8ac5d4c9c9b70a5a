package gate

import "runtime"

// lockThread keeps the goroutine on its thread.
func lockThread() { runtime.LockOSThread() }
