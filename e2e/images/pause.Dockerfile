# Holds a pod's namespaces.
FROM scratch
COPY busybox /busybox
ENTRYPOINT ["/busybox", "tail", "-f", "/dev/null"]
