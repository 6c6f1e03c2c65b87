"""The controllers and the kubelet of an emulated cluster: each looks at the store and does its next step."""
