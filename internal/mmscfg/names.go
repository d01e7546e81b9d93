package mmscfg

import "strings"

// names are the settings that Adobe's administration guides document. repeat marks those that may stand on several lines.
// The list serves spelling and letter case only: any other name is kept as it is.
var names = []struct {
	name   string
	repeat bool
}{
	{name: "AllowUserLocalTrust"},
	{name: "AssetCacheSize"},
	{name: "AutoUpdateDisable"},
	{name: "AutoUpdateInterval"},
	{name: "AVHardwareDisable"},
	{name: "AVHardwareEnabledDomain", repeat: true},
	{name: "DisableDeviceFontEnumeration"},
	{name: "DisableNetworkAndFilesystemInHostApp", repeat: true},
	{name: "DisableProductDownload"},
	{name: "DisableSockets"},
	{name: "EnableSocketsTo", repeat: true},
	{name: "EnforceLocalSecurityInActiveXHostApp", repeat: true},
	{name: "ErrorReportingEnable"},
	{name: "FileDownloadDisable"},
	{name: "FileDownloadEnabledDomain", repeat: true},
	{name: "FileUploadDisable"},
	{name: "FileUploadEnabledDomain", repeat: true},
	{name: "FullScreenDisable"},
	{name: "FullScreenInteractiveDisable"},
	{name: "LegacyDomainMatching"},
	{name: "LocalFileLegacyAction"},
	{name: "LocalFileReadDisable"},
	{name: "LocalStorageLimit"},
	{name: "NetworkRequestTimeout"},
	{name: "OverrideGPUValidation"},
	{name: "ProductDisabled", repeat: true},
	{name: "ProtectedMode"},
	{name: NameP2PDisable},
	{name: NameTURNProxy},
	{name: "SilentAutoUpdateEnable"},
	{name: "SilentAutoUpdateServerDomain"},
	{name: "SilentAutoUpdateVerboseLogging"},
	{name: "ThirdPartyStorage"},
	{name: "UseWAVPlayer"},
}

// canonicalName returns the documented spelling of a name in any letter case, or "".
func canonicalName(name string) (known string, repeat bool) {
	for _, n := range names {
		if strings.EqualFold(n.name, name) {
			return n.name, n.repeat
		}
	}
	return "", false
}

// nearName returns the one of our two names that a misspelt one was probably meant to be, or "".
func nearName(name string) string {
	for _, known := range []string{NameTURNProxy, NameP2PDisable} {
		if distanceAtMost(strings.ToLower(name), strings.ToLower(known), 4) {
			return known
		}
	}
	return ""
}

// distanceAtMost reports whether at most max insertions, deletions and replacements of bytes make b out of a.
// Lengths that differ by more are not compared, so the work is bounded by the known name's length.
func distanceAtMost(a, b string, max int) bool {
	if len(a)-len(b) > max || len(b)-len(a) > max {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)] <= max
}
