# A shell and small tools for test pods.
FROM scratch
COPY . /
ENV PATH=/bin
CMD ["/bin/sh"]
